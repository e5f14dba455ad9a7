#!/usr/bin/env bash
# Installs the real peers that tests ask for, where that is possible. A test whose peer is missing says so and is skipped.
set -u
if ! command -v promtool >/dev/null; then
  # Debian's package `prometheus` carries promtool; the server is not started.
  { apt-get update -qq && apt-get install -y -qq --no-install-recommends prometheus; } >/dev/null 2>&1 ||
    echo "promtool could not be installed: the tests that ask it are skipped"
fi
