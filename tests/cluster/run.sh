#!/usr/bin/env bash
# Builds a Kubernetes API server from the Go module proxy, starts it and lets it judge.
# Usage: tests/cluster/run.sh build, or tests/cluster/run.sh [pytest's arguments]
set -euo pipefail
cd "$(dirname "$0")/../.."
if ! command -v go >/dev/null; then
  echo "test-cluster needs Go 1.26 or later, to build kube-apiserver; install it and run again" >&2
  exit 1
fi
work=$PWD/target/cluster
version=$(cd tests/cluster && go list -m -f '{{.Version}}' k8s.io/kubernetes)
build() {
  (cd tests/cluster && CGO_ENABLED=0 GOFLAGS="-mod=readonly -buildvcs=false" go build -trimpath \
    -ldflags="-s -w -X k8s.io/component-base/version.gitVersion=$version" -o "$work/bin/$1" "$2")
}
mkdir -p "$work/bin"
build etcd go.etcd.io/etcd/server/v3
build kube-apiserver k8s.io/kubernetes/cmd/kube-apiserver
build kubectl k8s.io/kubernetes/cmd/kubectl
build helm helm.sh/helm/v4/cmd/helm
# The objects of other projects that the chart can make.
definitions() {
  local folder
  folder=$(cd tests/cluster && go mod download -json "$1" | sed -n 's/^\t"Dir": "\(.*\)",$/\1/p')
  shift
  for file; do install -D -m 644 -t "$work/definitions" "$folder/$file"; done
}
definitions github.com/prometheus-operator/prometheus-operator@v0.85.0 \
  example/prometheus-operator-crd/monitoring.coreos.com_{podmonitors,prometheusrules,servicemonitors}.yaml
definitions github.com/cilium/cilium@v1.20.2 pkg/k8s/apis/cilium.io/client/crds/v2/ciliumnetworkpolicies.yaml
if [ "${1:-}" = build ]; then exit; fi
cargo build --locked --all-features --bins
export PYTHONDONTWRITEBYTECODE=1
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check -r tests/cluster/requirements.txt
"$work/venv/bin/pytest" -p no:cacheprovider --basetemp "$work/run" tests/cluster "$@"
