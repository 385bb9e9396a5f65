#!/bin/sh
# Downloads the installation image, unless the cache has it. A part of it leaves no file.
set -eu
file=$1
if [ -s "$file" ]; then
    echo "the image is from the cache"
    exit 0
fi
mkdir -p "$(dirname "$file")"
curl --fail --silent --show-error --location --retry 3 --output "$file.part" "$ISO_URL"
mv "$file.part" "$file"
