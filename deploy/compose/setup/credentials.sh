#!/usr/bin/env bash
# Makes the keys and certificates that are needed before anything runs, in /volumes; those that are there stay, a certificate
# until a day before its end. Which of them there are follows from the volumes that are mounted.
set -euo pipefail
umask 077

days=365
user=65532 # whom the programs run as

has() { [ -d "/volumes/$1" ]; }

# What the others mount of the repository, they have to be able to read, or each would fail in its own way.
unreadable=$(setpriv --reuid="$user" --regid="$user" --clear-groups \
  find /compose \( ! -readable -o -type d ! -executable \) -print -prune) || true
if [ -n "$unreadable" ]; then
  echo "credentials: user $user, whom the programs run as, cannot read these; try: chmod -R go+rX deploy/compose"
  sed 's,^/compose,  deploy/compose,' <<<"$unreadable"
  exit 1
fi

# OpenSSL's own configuration would add extensions of its own.
config=$(mktemp)
cat > "$config" <<'CONFIG'
[req]
distinguished_name = name
[name]
[root]
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign, cRLSign
subjectKeyIdentifier = hash
[server]
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = serverAuth
subjectAltName = ${ENV::NAMES}
CONFIG
export NAMES=

certificate() { # FILE COMMON-NAME EXTENSIONS [ARGUMENTS]: makes FILE.crt, and FILE.key if there is none
  local file=$1 name=$2 extensions=$3
  shift 3
  # With the key that it had, what was signed under a root stays good, and so do copies of the root that somebody still has.
  [ -s "$file.key" ] || openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$file.key"
  openssl req -x509 -config "$config" -extensions "$extensions" -subj "/CN=$name" -days "$days" \
    -key "$file.key" -out "$file.crt" "$@"
}

lasts() { # FILE: whether its certificate is there, and good for another day
  [ -f "$1.crt" ] && openssl x509 -in "$1.crt" -noout -checkend 86400 &>/dev/null
}

root() { # FILE COMMON-NAME
  lasts "$1" || certificate "$1" "$2" root
}

server() { # FILE CA-FILE NAME...: a certificate for a server of these names
  local file=$1 ca=$2
  shift 2
  if lasts "$file" && openssl verify -CAfile "$ca.crt" "$file.crt" &>/dev/null; then
    return
  fi
  NAMES=$(printf 'DNS:%s,' "$@")
  NAMES=${NAMES%,}
  certificate "$file" "$1" server -CA "$ca.crt" -CAkey "$ca.key"
}

if has control-plane; then
  cd /volumes/control-plane
  root cluster-ca "cluster CA"
  server api cluster-ca kube-apiserver localhost
  [ -f accounts.key ] || openssl ecparam -name prime256v1 -genkey -noout -out accounts.key
  openssl ec -in accounts.key -pubout -out accounts.pub 2>/dev/null
  [ -f tokens.csv ] || echo "$(openssl rand -hex 32),admin,admin,\"system:masters\"" > tokens.csv
fi

if has admin; then
  cd /volumes/admin
  cp ../control-plane/cluster-ca.crt .
  cat > kubeconfig <<KUBECONFIG
apiVersion: v1
kind: Config
current-context: compose
contexts: [{name: compose, context: {cluster: compose, user: admin}}]
clusters:
- name: compose
  cluster: {server: "https://kube-apiserver:6443", certificate-authority-data: $(base64 -w0 cluster-ca.crt)}
users: [{name: admin, user: {token: $(cut -d, -f1 ../control-plane/tokens.csv)}}]
KUBECONFIG
  # Of a company's CA, cert-manager has such a key and certificate too.
  root first-issuer "first issuer"
  root second-issuer "second issuer"
fi

# Its key is needed here alone, so it is in a volume that nobody else has.
cd /volumes/sds-ca
[ ! -f ../server/sds-ca.key ] || mv ../server/sds-ca.* . # as set-up had it before
root sds-ca "CA of the SDS listener"
server ../server/tls sds-ca envoy-sds
for proxy in web shop; do
  cp sds-ca.crt "../$proxy/"
  chown -R "$user:$user" "../$proxy"
done
chown -R "$user:$user" /volumes/server
echo "credentials: made"
