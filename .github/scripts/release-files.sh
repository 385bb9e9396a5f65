#!/bin/sh
# Makes the files of a release from packages: an archive of each, its SBOM, its record of
# the build, and checksums of them all.
# release-files.sh FOLDER_OF_PACKAGES OUT
set -eu
mkdir -p "$2"
out=$(cd "$2" && pwd)
for package in "$1"/*/; do
    name=$(basename "$package")
    (cd "$package" && python3 -m zipfile -c "$out/$name.zip" *)
    for file in BUILDINFO.json hushport.cdx.json; do
        cp "$package$file" "$out/$name.$file"
    done
done
cd "$out"
sha256sum -- * > SHA256SUMS
