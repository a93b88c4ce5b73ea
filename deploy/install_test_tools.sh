#!/bin/sh
# Installs what the tests start beside Python packages: PostgreSQL, Redis, Chromium, Node.js, ip, Prometheus.
# As root on Debian it installs them; elsewhere it names what is missing and goes on
# (the tests that need it then say so; with CI=true they fail).
set -eu
missing=""
ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || command -v initdb >/dev/null || missing="$missing postgresql"
command -v redis-server >/dev/null || missing="$missing redis-server"
command -v chromium >/dev/null || command -v google-chrome >/dev/null || missing="$missing chromium"
command -v wrk >/dev/null || missing="$missing wrk"
command -v ip >/dev/null || missing="$missing iproute2"
command -v npm >/dev/null || missing="$missing nodejs npm"
command -v prometheus >/dev/null && command -v promtool >/dev/null || missing="$missing prometheus"
ls /usr/lib/*/faketime/libfaketimeMT.so.1 >/dev/null 2>&1 || missing="$missing faketime"
if [ -n "$missing" ]; then
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        export DEBIAN_FRONTEND=noninteractive
        apt-get update -qq
        # shellcheck disable=SC2086
        apt-get install -y -qq --no-install-recommends $missing >/dev/null
        case "$missing" in
        *prometheus*) # the tests start one of their own; the package's service is not wanted
            if [ -d /run/systemd/system ]; then systemctl disable -q --now prometheus; fi ;;
        esac
    else
        echo "Some tests need:$missing (on Debian: sudo apt-get install$missing)" >&2
    fi
fi

# OpenAI's SDK for Node.js, as applications use it; of this version.
node_sdk=7.57.0
if command -v npm >/dev/null && [ ! -d ".node/node_modules/openai" ]; then
    npm install --prefix .node --no-save --no-audit --no-fund --loglevel=error \
        "openai@$node_sdk" >/dev/null ||
        echo "The Node.js SDK could not be installed; its test needs npm's registry." >&2
fi
