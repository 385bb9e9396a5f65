#!/bin/sh
# Puts the verdict and what failed on the page of the run.
set -eu
for name in verdict.txt failures.txt; do
    if [ -s "$1/$name" ]; then
        cat "$1/$name" >> "$GITHUB_STEP_SUMMARY"
    fi
done
if [ -s "$1/host-checks.jsonl" ]; then
    grep -v '"Failure":""' "$1/host-checks.jsonl" >> "$GITHUB_STEP_SUMMARY" || true
fi
