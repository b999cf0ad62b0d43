#!/usr/bin/env bash
# Heddle's demo: unmodified programs talk through the mesh, routed by Gateway API manifests, in mTLS.
# Every number is counted, every claim checked; the exit status is 1 if one does not hold.
#
#   tests/demo/demo.sh [--keep]     --keep leaves the world up, to play with
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
lab=${HEDDLE_LAB:-$here/../../target/release/lab}
bin=$(cd "$(dirname "$lab")" && pwd)
world=demo
node=/run/netns/lab-$world-node
scratch=$(mktemp -d)
keep=${1:-}
failed=0
tcpdump=

main() {
  need_root
  trap clean_up EXIT
  trap 'exit 130' INT TERM
  bring_up
  chapter_http
  chapter_postgres
  chapter_grpc
  chapter_unconfigured
  chapter_wire
  chapter_change
  conclude
}

need_root() {
  ((EUID == 0)) || { echo "the demo makes network namespaces: run it as root (sudo make demo)" >&2; exit 1; }
}

bring_up() {
  title "A world of pods, from ordinary Kubernetes manifests"
  for file in shop split data loom unconfigured outside; do
    sed "s|/echo,|$bin/echo,|" "$here/$file.yaml" >"$scratch/$file.yaml"
  done
  say "Twelve pods, each a network namespace on this machine; in ten of them Heddle's webhook puts a proxy."
  "$lab" down --world $world >/dev/null 2>&1 || true
  shown up --mode strict tests/demo/{shop,split,data,loom,unconfigured,outside}.yaml
  "$lab" up --world $world --mode strict "$scratch"/{shop,split,data,loom,unconfigured,outside}.yaml 2>&1 | indent
  "$lab" ps --world $world 2>&1 | indent
}

chapter_http() {
  title "1. HTTP: nine requests to the old version, one to the new"
  shown_file split.yaml 12
  shown exec shop/client -- load http://web/ --requests 1000
  load http://web/ --requests 1000 --connections 4 >"$scratch/split"
  indent <"$scratch/split"
  local v1 v2
  v1=$(count web-v1 split) v2=$(count web-v2 split)
  claim "1,000 requests, none failed" failed_none split
  claim "web-v1 answered $v1 and web-v2 $v2: 90/10, give or take 4 %" within "$v1" 860 940
  load http://web/ --requests 100 --header x-canary:yes >"$scratch/canary"
  claim "with the header x-canary: yes, web-v2 answered $(count web-v2 canary) of 100" within "$(count web-v2 canary)" 100 100
  local identity
  identity=$(in_pod shop/client curl -sS http://web/ | sed -n 's/.*URI=\([^",;]*\).*/\1/p')
  claim "the server saw who called: ${identity:-nobody}" test "$identity" = spiffe://cluster.local/ns/shop/sa/checkout
}

chapter_postgres() {
  title "2. PostgreSQL: the same for connections, with psql and pgbench as they are"
  local sql="select current_setting('cluster_name') as pod, split_part(version(), ' ', 2) as version"
  shown exec shop/client -- psql -h pg.data -U postgres -c "\"$sql\""
  in_pod shop/client psql -h pg.data -U postgres -c "$sql" | indent
  in_pod shop/client sh -c "for i in \$(seq 100); do psql -h pg.data -U postgres -qtAc 'show cluster_name'; done" >"$scratch/pods"
  local v1 v2
  v1=$(grep -c '^pg-v1$' "$scratch/pods" || true) v2=$(grep -c '^pg-v2$' "$scratch/pods" || true)
  claim "100 times psql: pg-v1 answered $v1, pg-v2 $v2" test $((v1 + v2)) -eq 100
  claim "most of them on pg-v1, some on pg-v2" within "$v2" 1 25
  bench
}

# Each transaction over a connection of its own, so that each is routed.
bench() {
  in_pod shop/client sh -c 'for pod in pg-v1 pg-v2; do pgbench -h $pod.data -U postgres -i -q postgres; done' >/dev/null 2>&1
  shown exec shop/client -- pgbench -h pg.data -U postgres -n -C -c 4 -t 100 postgres
  in_pod shop/client pgbench -h pg.data -U postgres -n -C -c 4 -t 100 postgres >"$scratch/bench" 2>&1 || true
  grep -E 'actually processed|failed|tps' "$scratch/bench" | indent
  local v1 v2
  v1=$(transactions pg-v1) v2=$(transactions pg-v2)
  claim "400 transactions: $v1 are in pg-v1's history, $v2 in pg-v2's" test $((v1 + v2)) -eq 400
  claim "that is 90/10, give or take 6 %" within "$v1" 336 384
}

transactions() { in_pod shop/client psql -h "$1.data" -U postgres -qtAc 'select count(*) from pgbench_history'; }

chapter_grpc() {
  title "3. gRPC: a GRPCRoute splits the calls of one connection"
  shown_file loom.yaml 12
  shown exec mill/weaver -- python3 /loom/client.py 500 Weave
  in_pod mill/weaver /usr/bin/python3 /loom/client.py 500 Weave >"$scratch/calls" 2>&1 || true
  indent <"$scratch/calls"
  local v1 v2
  v1=$(count loom-v1 calls) v2=$(count loom-v2 calls)
  claim "500 calls over one connection, none failed: loom-v1 answered $v1, loom-v2 $v2" test $((v1 + v2)) -eq 500
  claim "that is 80/20, give or take 8 %" within "$v1" 360 440
  in_pod mill/weaver /usr/bin/python3 /loom/client.py 1000 Shuttle >"$scratch/stream" 2>&1 || true
  indent <"$scratch/stream"
  claim "a stream of 1,000 messages went there and back" grep -q '^1000 threads came back; the last: loom-v2: thread 999$' "$scratch/stream"
  in_pod mill/weaver /usr/bin/python3 /loom/client.py 1 Unravel >"$scratch/unknown" 2>&1 || true
  claim "a method that no rule names is answered with$(sed 's/^ *status/ the status/; s/: 1$//' "$scratch/unknown")" grep -q '^  status UNIMPLEMENTED: 1$' "$scratch/unknown"
}

chapter_unconfigured() {
  title "4. Nothing configured: a server that speaks first, and a message broker"
  shown exec shop/client -- mariadb -h mariadb.data -u weaver -psecret -e "\"select version()\""
  in_pod shop/client mariadb --no-defaults --skip-ssl -h mariadb.data -u weaver -psecret -Ne 'select version()' >"$scratch/mariadb" 2>&1 || true
  indent <"$scratch/mariadb"
  claim "MariaDB greets its client through the mesh" grep -qi mariadb "$scratch/mariadb"
  # A session that the broker keeps, so that it holds what is published before the subscriber comes back.
  local session=(mosquitto_sub -h mosquitto.data -t weft -q 1 -i shop -c) message
  in_pod shop/client "${session[@]}" -E
  shown exec mill/weaver -- mosquitto_pub -h mosquitto.data -t weft -m "\"a red thread\""
  for message in red green blue; do in_pod mill/weaver mosquitto_pub -h mosquitto.data -t weft -q 1 -m "a $message thread"; done
  shown exec shop/client -- mosquitto_sub -h mosquitto.data -t weft -C 3
  in_pod shop/client "${session[@]}" -C 3 -W 20 >"$scratch/messages" || true
  indent <"$scratch/messages"
  claim "three messages, published in one namespace, arrived in another" test "$(grep -c '^a .* thread$' "$scratch/messages")" = 3
}

chapter_wire() {
  title "5. The wire: a capture between the pods"
  start_capture
  in_pod shop/client curl -sS -H 'x-secret: warp-and-weft' -d 'weft-and-warp' http://web/ >/dev/null
  in_pod shop/client psql -h pg.data -U postgres -qtAc "select 'a thread through ' || 'the heddle'" >/dev/null
  in_pod outside/client curl -sS -H 'x-secret: out-in-the-open' http://web/ >/dev/null
  stop_capture
  say "$(stat -c %s "$scratch/wire.pcap") bytes captured: a request and a query in the mesh, and a request outside of it."
  claim "the request outside of the mesh is there to read" on_the_wire 'out-in-the-open'
  local text
  for text in 'warp-and-weft' 'weft-and-warp' 'a thread through'; do
    claim "\"$text\", sent in the mesh, is nowhere" not on_the_wire "$text"
  done
  shown exec outside/client -- curl http://web.shop/
  in_pod outside/client curl -sS --max-time 5 http://web.shop/ >"$scratch/stranger" 2>&1 && entered=yes || entered=no
  indent <"$scratch/stranger"
  claim "a client outside of the mesh is refused: the world is strict" test $entered = no
}

start_capture() {
  nsenter --net=$node tcpdump -i any -s 0 -U -Z root --immediate-mode -w "$scratch/wire.pcap" 2>"$scratch/tcpdump" &
  tcpdump=$!
  wait_for grep -q 'listening on' "$scratch/tcpdump"
}

stop_capture() {
  kill -INT $tcpdump
  wait $tcpdump || true
  tcpdump=
}

on_the_wire() { grep -qaF "$1" "$scratch/wire.pcap"; }

chapter_change() {
  title "6. Change: the weights move while traffic flows"
  load http://web/ --seconds 12 --rate 1500 --connections 8 --progress >"$scratch/change" 2> >(indent >&2) &
  local traffic=$! weight
  for weight in 90 80 70 60 50 40 30 20 10 0; do
    sed "s/weight: .* # stable/weight: $weight/; s/weight: .* # canary/weight: $((100 - weight))/" "$here/split.yaml" |
      "$lab" apply --world $world - >/dev/null 2>&1
    say "web-v1 $weight, web-v2 $((100 - weight))"
    sleep 1
  done
  wait $traffic || true
  indent <"$scratch/change"
  claim "$(sed -n '1s/ .*//p' "$scratch/change") requests while the weights moved ten times, none failed" failed_none change
  load http://web/ --requests 200 >"$scratch/after"
  claim "and now web-v2 answers all: $(count web-v2 after) of 200" within "$(count web-v2 after)" 200 200
}

conclude() {
  title "The end"
  if ((failed > 0)); then
    say "$failed claims do not hold. The control plane's log:"
    "$lab" logs --world $world --control 2>&1 | tail -20 | indent
    exit 1
  fi
  say "Everything held. The manifests are in tests/demo, the tests that prove more in tests/e2e."
}

# --- the stage ---------------------------------------------------------------------------------------------------

in_pod() {
  local pod=$1
  shift
  timeout 60 "$lab" exec --world $world "$pod" -- "$@"
}

load() { in_pod shop/client "$bin/echo" load "$@"; }

# How many answers a server gave, in a report of `load`.
count() { sed -n "s/^  server $1: //p" "$scratch/$2" | grep . || echo 0; }

failed_none() { grep -q '^[1-9][0-9]* answered, 0 failed' "$scratch/$1"; }

within() { (($1 >= $2 && $1 <= $3)); }

not() { ! "$@"; }

# Until the command succeeds, for 10 seconds at most.
wait_for() {
  local end=$((SECONDS + 10))
  until "$@"; do
    ((SECONDS < end)) || { say "waited 10 s in vain for: $*"; exit 1; }
    sleep 0.05
  done
}

claim() {
  local text=$1
  shift
  if "$@"; then
    printf '  %s✓%s %s\n' "$green" "$plain" "$text"
  else
    printf '  %s✗ %s%s\n' "$red" "$text" "$plain"
    failed=$((failed + 1))
  fi
}

title() { printf '\n%s%s%s %s[%d s]%s\n' "$bold" "$1" "$plain" "$dim" "$SECONDS" "$plain"; }
say() { printf '  %s\n' "$1"; }
shown() { printf '  %s$ lab %s%s\n' "$dim" "$*" "$plain"; }
shown_file() { tail -n "$2" "$here/$1" | sed "s/^/    /"; }
indent() { sed -u 's/^/    /'; }

clean_up() {
  local status=$?
  [[ -z $tcpdump ]] || kill $tcpdump 2>/dev/null || true
  rm -rf "$scratch"
  if [[ $keep == --keep ]]; then
    say "The world is still up: $lab exec --world $world shop/client -- curl -s http://web/"
    say "Take it down with:     $lab down --world $world"
  else
    "$lab" down --world $world >/dev/null 2>&1 || true
  fi
  exit $status
}

bold='' dim='' green='' red='' plain=''
if [[ -t 1 ]]; then
  bold=$'\e[1m' dim=$'\e[2m' green=$'\e[32m' red=$'\e[31m' plain=$'\e[0m'
fi

main
