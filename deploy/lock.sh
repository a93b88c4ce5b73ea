#!/bin/sh
# Writes the exact versions that are installed: .venv to constraints.txt, .vllm to
# constraints-vllm.txt. Run it after changing dependencies, on a tested environment made with the
# oldest Python we promise (3.11): some releases need a later patch of it.
set -eu
cd "$(dirname "$0")/.."

freeze() {
    # no local versions (+cpu): which build of a version fits is the machine's affair
    "$1/bin/python" -m pip list --format=freeze |
        grep -viE '^(ostiary|pip|setuptools|wheel)==' | sed 's/+[^ ]*$//' | LC_ALL=C sort -f
}
{
    echo "# Exact versions of the gateway's environment; written by deploy/lock.sh."
    freeze .venv
} >constraints.txt
if [ -x .vllm/bin/python ]; then
    {
        echo "# Exact versions of the model server's own environment; written by deploy/lock.sh."
        freeze .vllm
    } >constraints-vllm.txt
fi
