#!/usr/bin/env bash
# Runs the Gateway API's own conformance suite for meshes on the cluster of KUBECONFIG, or on the one that make cluster
# brought up, with Heddle installed. It fails if any of the suite's mesh tests does not pass, were it that it was skipped.
# The report goes to docs/conformance. Usage: tests/cluster/conformance.sh [FLAG OF THE SUITE...]
set -euo pipefail
cd "$(dirname "$0")"
. ./lib.sh

ROOT=$(cd ../.. && pwd)
LOG=$ROOT/target/conformance.log
REPORT=$ROOT/target/conformance.yaml

PROFILES=MESH-HTTP,MESH-GRPC
# All that a mesh test asks for.
FEATURES=(
    Mesh HTTPRoute GRPCRoute MeshClusterIPMatching MeshConsumerRoute
    MeshHTTPRouteRewritePath MeshHTTPRouteSchemeRedirect MeshHTTPRouteRedirectPort MeshHTTPRouteRedirectPath
    MeshHTTPRouteBackendRequestHeaderModification MeshHTTPRouteQueryParamMatching MeshHTTPRouteNamedRouteRule
    HTTPRouteParentRefPort HTTPRouteResponseHeaderModification
    HTTPRoute303RedirectStatusCode HTTPRoute307RedirectStatusCode HTTPRoute308RedirectStatusCode
)

main() {
    local suite
    export KUBECONFIG=${KUBECONFIG:-$ADMIN}
    suite=$(./build.sh conformance)/conformance.test
    kubectl=$(find_kubectl)
    mkdir -p "$ROOT/target"
    require_api
    require_heddle
    clear_up
    mesh_tests=$("$suite" -test.run '^TestMeshNames$' | sed -n 's/^mesh test: //p')
    [ -n "$mesh_tests" ] || fail "the suite names no mesh tests"
    say "running $(wc -w <<<"$mesh_tests") tests (log: $LOG)"
    run_suite "$suite" "$@" || true
    judge
}

# The kinds have to be there before Heddle is asked what it does with them. The suite refuses other versions itself.
require_api() {
    ! "$kubectl" get crd httproutes.gateway.networking.k8s.io >/dev/null 2>&1 || return 0
    say "installing the Gateway API's CRDs, which this cluster lacks"
    "$kubectl" apply --server-side -f "$(./build.sh crds)/standard" >/dev/null
}

require_heddle() {
    "$kubectl" -n heddle-system rollout status deployment/heddle-injector --timeout 60s >/dev/null ||
        fail "Heddle does not run in this cluster; docs/install.md says how to install it"
}

# Of a run that was interrupted.
clear_up() {
    "$kubectl" delete namespace gateway-conformance-mesh gateway-conformance-mesh-consumer \
        --ignore-not-found --wait --timeout 120s >/dev/null
}

# The tests that are for gateways skip themselves, and their names are not shown.
run_suite() {
    local suite=$1
    shift
    rm -f "$REPORT"
    "$suite" -test.v -test.timeout 60m -test.run '^TestConformance$' \
        --conformance-profiles "$PROFILES" --supported-features "$(IFS=,; echo "${FEATURES[*]}")" \
        --namespace-labels heddle.dev/inject=enabled --report-output "$REPORT" \
        --organization heddle --project heddle --url https://heddle.dev --version "$(version)" \
        --contact https://heddle.dev "$@" 2>&1 |
        tee "$LOG" | grep --line-buffered -E "^ +--- (PASS|FAIL|SKIP): TestConformance/($(one_of "$mesh_tests")) "
}

version() { sed -n 's/^version = "\(.*\)"/\1/p' "$ROOT/Cargo.toml" | head -n 1; }

one_of() { paste -sd '|' <<<"$1"; }

# Every mesh test has passed, nothing whatever has failed, and there is a report.
judge() {
    local test missing=()
    for test in $mesh_tests; do
        grep -qE "^ +--- PASS: TestConformance/$test " "$LOG" || missing+=("$test")
    done
    [ ${#missing[@]} -eq 0 ] || fail "did not pass: ${missing[*]}; the log is $LOG"
    grep -q '^--- PASS: TestConformance ' "$LOG" || fail "the suite failed: $(tail -n 3 "$LOG"); the log is $LOG"
    keep_report
    say "all $(wc -w <<<"$mesh_tests") mesh tests passed, none was skipped; the report is $kept"
}

# By the name that the Gateway API's own collection of reports would give it.
keep_report() {
    local api channel
    [ -s "$REPORT" ] || fail "the suite wrote no report; the log is $LOG"
    api=$(sed -n 's/^gatewayAPIVersion: //p' "$REPORT")
    channel=$(sed -n 's/^gatewayAPIChannel: //p' "$REPORT")
    kept=$ROOT/docs/conformance/$api/$channel-$(version)-default-report.yaml
    mkdir -p "$(dirname "$kept")"
    cp "$REPORT" "$kept"
}

main "$@"
