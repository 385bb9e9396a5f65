#!/bin/sh
# Writes a key for the cache of the installation image: a digest of its URL, which may be
# secret. Without a URL there is no key, and nothing else to do.
set -eu
if [ -z "${ISO_URL:-}" ]; then
    echo "no image: give a URL, or set the secret WINDOWS_ISO_URL" | tee -a "$GITHUB_STEP_SUMMARY"
    exit 0
fi
key=$(printf %s "$ISO_URL" | sha256sum | cut -c 1-32)
echo "key=$key" >> "$GITHUB_OUTPUT"
