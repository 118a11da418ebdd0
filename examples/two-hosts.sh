#!/bin/sh
# Train on two "hosts" of one machine: two agents of torchrun, which meet at one rendezvous. The options are those of distill:
#
#     sh examples/two-hosts.sh --data images/ --out run/

port=${PORT:-29400}
agent() {
  torchrun --nnodes 2 --nproc-per-node 1 --rdzv-backend c10d --rdzv-endpoint "localhost:$port" --rdzv-id run \
    -m libkd_sdk distill "$@"
}

agent "$@" &
other=$!
agent "$@"
code=$?
wait "$other" || code=$?
exit "$code"
