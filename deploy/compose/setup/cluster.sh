#!/usr/bin/env bash
# Fills the cluster: definitions, issuers, rights, the mesh, two workloads; and writes for each program in /volumes what it
# identifies itself with. It can run again at any time, as Compose v2 has it do for each `start`: a mesh that is there stays as
# it is, definitions are not downloaded twice, and new tokens are as good as the ones before, which stay good.
set -euo pipefail
umask 077

user=65532 # whom the programs run as
token_life=8760h

say() { echo "setup: $*"; }

apply() { kubectl apply --server-side --force-conflicts -f "$@" >/dev/null; }

generate() { kubectl create --dry-run=client -o yaml "$@"; }

keep() { # VOLUME FILE: what comes from standard input, at once and for that volume's program alone
  cat > "/volumes/$1/.new"
  chown "$user:$user" "/volumes/$1" "/volumes/$1/.new"
  mv "/volumes/$1/.new" "/volumes/$1/$2"
}

kubeconfig() { # NAMESPACE ACCOUNT
  kubectl config view --raw --minify -o json > /tmp/kubeconfig
  KUBECONFIG=/tmp/kubeconfig kubectl config set-credentials admin \
    --token="$(kubectl create token "$2" -n "$1" --duration="$token_life")" >/dev/null
  cat /tmp/kubeconfig
}

mesh_secret() { # NAME FILE...: CAs that a Mesh can name as its caCert
  local name=$1
  shift
  cat "$@" > "/tmp/$name.pem"
  generate secret generic "$name" -n kong-mesh-system --type=system.kuma.io/secret --from-file="value=/tmp/$name.pem" |
    kubectl label --local -f - kuma.io/mesh=default -o yaml | apply -
}

until_it_works() { # COMMAND...: for 120 s at most
  local answer deadline=$((SECONDS + 120))
  until answer=$("$@" 2>&1); do
    if [ "$SECONDS" -ge "$deadline" ]; then
      say "given up after 120 s: $*: $answer"
      exit 1
    fi
    sleep 0.2
  done
}

# The API server cannot tell when it is ready: its image has nothing to ask it with.
until_it_works kubectl get --raw /readyz
say "the API server is ready"

# Where the definitions are from, for the next time.
definitions=crd/certificaterequests.cert-manager.io mark=envoy-sds-setup/from
from=$(kubectl get "$definitions" --ignore-not-found -o jsonpath="{.metadata.annotations.$mark}")
if [ "$from" = "$CERT_MANAGER_CRDS" ]; then
  say "cert-manager's definitions are there already"
else
  apply "$CERT_MANAGER_CRDS"
fi
apply /deploy/crds.yaml
# About one that was made a moment ago, kubectl may say that it has no conditions at all, and give up.
until_it_works kubectl wait --for=condition=Established crd --all --timeout=30s
kubectl annotate --overwrite "$definitions" "$mark=$CERT_MANAGER_CRDS" >/dev/null
apply /deploy/compose/cluster/namespaces.yaml
apply /deploy/compose/cluster/cert-manager.yaml
apply /deploy/rbac.yaml
say "definitions and rights are there"

for issuer in first-issuer second-issuer; do
  generate secret tls "$issuer" -n cert-manager --cert="/volumes/admin/$issuer.crt" --key="/volumes/admin/$issuer.key" |
    apply -
done
mesh_secret first-root /volumes/admin/first-issuer.crt
mesh_secret both-roots /volumes/admin/{first,second}-issuer.crt
apply /deploy/compose/cluster/issuers.yaml
# As users apply the others.
kubectl get mesh default >/dev/null 2>&1 || kubectl apply -f /deploy/compose/mesh/first-issuer.yaml >/dev/null

kubeconfig cert-manager cert-manager | keep cert-manager kubeconfig
kubeconfig kong-mesh-system envoy-sds | keep server kubeconfig

# In a cluster with nodes, kubelet gives a pod this token as a projected volume.
apply /deploy/compose/cluster/workloads.yaml
for proxy in web shop; do
  kubectl create token "$proxy" -n demo --audience=envoy-sds --duration="$token_life" \
    --bound-object-kind=Pod --bound-object-name="$proxy-0" | tr -d '\n' | keep "$proxy" token
done
say "issuers, mesh, workloads and their tokens are there"
