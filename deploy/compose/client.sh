#!/usr/bin/env bash
# Sends a request after the other to shop, which forwards it to web by mTLS. Says who talked to whom with the first, whenever
# that has changed, when a request fails, and now and then how many there were.
set -uo pipefail

pause=0.2 # s
every=50 # requests
requests=0 failed=0 shown=''

say() { printf '%(%T)T %s\n' -1 "$*"; }

header() { sed -n "s/^$1: //Ip" <<<"$answer" | tr -d '\r'; }

total() { say "$requests requests, $failed failed"; }

finish() {
  total
  exit 0
}
trap finish TERM INT

# -k: this is about whom web lets in, not about whom the caller believes. In TLS 1.3 a client is refused when its own
# handshake is done.
if answer=$(curl -ksS --max-time 5 -w '%{stderr}handshake: %{time_appconnect}' https://web:8443/ 2>&1); then
  say "web has let in a caller without a certificate: $answer"
  exit 1
elif [[ $answer == *'handshake: 0.000000'* ]]; then
  say "web cannot be reached: $answer"
  exit 1
fi
say "a caller without a certificate is refused: $(grep -o 'curl: .*' <<<"$answer")"

while true; do
  requests=$((requests + 1))
  if answer=$(curl -isS --fail-with-body --max-time 5 http://shop:8080/ 2>&1); then
    now="$(header x-client) called $(header x-server), issued by $(header x-issuer)"
    if [ "$now" != "$shown" ]; then
      say "request $requests: $now: $(tail -n 1 <<<"$answer")"
      shown=$now
    fi
  else
    failed=$((failed + 1))
    say "request $requests failed: ${answer//$'\r'/}"
  fi
  [ $((requests % every)) -ne 0 ] || total
  sleep "$pause" &
  wait $! # so that a signal is heard at once
done
