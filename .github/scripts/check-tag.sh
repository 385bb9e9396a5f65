#!/bin/sh
# Checks that the tag is the version of the workspace: v0.1.0 for 0.1.0.
set -eu
version=$(sed -n 's/^version = "\(.*\)"$/\1/p' Cargo.toml | head -n 1)
if [ "$GITHUB_REF_NAME" != "v$version" ]; then
    echo "the tag is $GITHUB_REF_NAME, expected v$version" >&2
    exit 1
fi
