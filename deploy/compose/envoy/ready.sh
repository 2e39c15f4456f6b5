#!/usr/bin/env bash
# Whether Envoy is ready, which it is when it has its certificates. Its image has no curl.
set -euo pipefail
exec 3<>/dev/tcp/127.0.0.1/9901
printf 'GET /ready HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n' >&3
grep -q LIVE <&3
