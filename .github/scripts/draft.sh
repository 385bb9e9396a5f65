#!/bin/sh
# Makes the draft of a release for the tag of this run, with all files of a folder.
# draft.sh FOLDER
set -eu
gh release create "$GITHUB_REF_NAME" --repo "$GITHUB_REPOSITORY" --verify-tag --draft \
    --title "hushport ${GITHUB_REF_NAME#v}" --notes "docs/RELEASE.md says how to check these files." "$1"/*
