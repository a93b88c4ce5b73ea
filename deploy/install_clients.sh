#!/bin/sh
# Installs other products' clients into .clients, an environment of its own, for the tests that
# call the gateway with them. Never fails the caller: without them the tests say so (with CI=true
# they fail).
set -u
cd "$(dirname "$0")/.."
packages="litellm==1.108.7 llama-index-core==0.14.25 llama-index-llms-openai-like==0.8.1
    llama-index-embeddings-openai-like==0.4.0"
stamp=".clients/.installed-$(printf '%s' "$packages" | cksum | cut -d' ' -f1)"
[ -f "$stamp" ] && exit 0

echo "Installing the clients of other products for the tests ..."
log=.clients-install.log
{
    rm -rf .clients &&
    "${PYTHON:-python3}" -m venv .clients &&
    # shellcheck disable=SC2086
    .clients/bin/python -m pip install -q $packages
} >"$log" 2>&1 || {
    echo "Other products' clients could not be installed, see $log; the tests will say so." >&2
    exit 0
}
touch "$stamp"
rm -f "$log"
