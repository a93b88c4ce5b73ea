#!/bin/sh
# Installs a real Milvus server (2.3.5, about 0.5 GB) into .milvus, for the tests. Never fails
# the caller: without it the tests that need it say so (with CI=true they fail).
set -u
cd "$(dirname "$0")/.."
version=2.3.5
stamp=".milvus/.installed-$version"
[ -f "$stamp" ] && exit 0

without() {
    echo "Milvus server for the tests: $1; the tests that need it will say so." >&2
    exit 0
}
[ "$(uname -s)-$(uname -m)" = "Linux-x86_64" ] || without "its package is for x86-64 Linux"
free_kb=$(df -Pk . | awk 'NR==2 {print $4}')
[ "$free_kb" -gt 1500000 ] || without "it needs 1.5 GB of disk"

echo "Installing a Milvus server for the tests ..."
log=.milvus-install.log
{
    rm -rf .milvus &&
    "${PYTHON:-python3}" -m venv .milvus &&
    .milvus/bin/python -m pip install -q "milvus==$version" &&
    # the package unpacks its server at each start in a new data folder; once is enough
    .milvus/bin/python -c 'import milvus; milvus._initialize_data_files(".milvus/server")' &&
    LD_LIBRARY_PATH=.milvus/server/bin .milvus/server/bin/milvus --help
} >"$log" 2>&1 || without "it could not be installed, see $log"
touch "$stamp"
rm -f "$log"
