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

# In TLS 1.3 a client is refused when its own handshake is done. This one sends nothing, and so it always reads why: who sends a
# request may find the connection gone before that.
stranger=$(timeout 5 openssl s_client -quiet -connect web:8443 </dev/null 2>&1)
ended=$?
if [[ $stranger == *'alert certificate required'* ]]; then
  say 'a caller without a certificate is refused, as it has to be: TLS alert "certificate required"'
elif [ "$ended" -eq 124 ]; then # by `timeout`: web waits for a request
  say "web has let in a caller without a certificate, or does not answer: $stranger"
  exit 1
else
  say "web has not refused a caller without a certificate: $stranger"
  exit 1
fi

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
