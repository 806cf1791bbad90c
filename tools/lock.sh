#!/bin/sh
# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
# Write requirements/build.txt, lock.txt, docs.txt and train.txt anew from the .in files. Needs uv on PATH.
# Pins already in the lock are kept where they still fit; `tools/lock.sh --upgrade` moves them to the newest.
set -eu
cd "$(dirname "$0")/../requirements"

compile() {
    uv pip compile --quiet --universal --python-version 3.10 --no-header --no-annotate "$@" > /dev/null
}

compile --generate-hashes "$@" build.in --output-file build.txt
compile --generate-hashes "$@" runtime.in test.in --constraint build.txt --output-file lock.txt
compile --generate-hashes "$@" docs.in --constraint build.txt --constraint lock.txt --output-file docs.txt

# torch has one build for each kind of GPU and one for none, with different files (no hashes here) and different
# companions, which each build pins itself (left out here).
leave_out=
for package in cuda-bindings cuda-pathfinder cuda-toolkit nvidia-cublas nvidia-cuda-cupti nvidia-cuda-nvrtc \
    nvidia-cuda-runtime nvidia-cudnn-cu13 nvidia-cufft nvidia-cufile nvidia-curand nvidia-cusolver \
    nvidia-cusparse nvidia-cusparselt-cu13 nvidia-nccl-cu13 nvidia-nvjitlink nvidia-nvshmem-cu13 nvidia-nvtx \
    triton
do
    leave_out="$leave_out --no-emit-package $package"
done
# shellcheck disable=SC2086
compile $leave_out "$@" train.in --constraint build.txt --constraint lock.txt --output-file train.txt
if grep -E '^(nvidia|cuda)-' train.txt; then
    echo 'lock.sh: torch has a new CUDA companion (above): add it to leave_out' >&2
    exit 1
fi
