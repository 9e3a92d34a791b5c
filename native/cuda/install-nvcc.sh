#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Puts the CUDA 12.4 compiler (nvcc, ptxas, cuobjdump, nvdisasm, headers, static runtime) into a folder of its own on Debian 12.
#
#   install-nvcc.sh [PREFIX]        default /opt/cuda-12.4
#
# Debian 12 itself has CUDA 11.8; the next release has 12.4 in non-free. Its packages are unpacked, not installed: apt's configuration and
# the installed packages stay as they are. Needs about 4 GB of disk while it runs and leaves about 300 MB.
set -euo pipefail
PREFIX=${1:-/opt/cuda-12.4}
RELEASE=trixie
KEYRING=/usr/share/keyrings/debian-archive-keyring.gpg
PACKAGES=(nvidia-cuda-toolkit nvidia-cuda-dev libnvvm4 libcu++-dev libcub-dev libthrust-dev)

fail() { printf 'install-nvcc: %s\n' "$*" >&2; exit 1; }
answers() { "$PREFIX/bin/nvcc" --version 2>/dev/null | grep -q 'release 12\.4'; }

if answers; then printf 'install-nvcc: %s/bin/nvcc is there\n' "$PREFIX"; exit 0; fi
command -v apt-get >/dev/null || fail 'this is not a Debian; install CUDA 12.4 by hand and set STRATA_CUDA to its folder'
mkdir -p "$PREFIX" 2>/dev/null && [[ -w $PREFIX ]] || fail "$PREFIX cannot be written; run as root, or pass a folder of yours and set STRATA_CUDA to it"
[[ -f $KEYRING ]] || fail "$KEYRING is missing; apt-get install debian-archive-keyring"

# The mirror that this machine's own apt sources name, so that a local one is respected.
mirror() {
  { cat /etc/apt/sources.list.d/*.sources 2>/dev/null | sed -n 's/^URIs:[[:space:]]*\([^[:space:]]*\).*/\1/p'
    cat /etc/apt/sources.list /etc/apt/sources.list.d/*.list 2>/dev/null | sed -n 's/^deb[[:space:]]\+\(\[[^]]*\][[:space:]]*\)\{0,1\}\([^[:space:]]\+\).*/\2/p'
  } | grep -v security | head -n 1
}
source_uri=$(mirror) || true
[[ -n $source_uri ]] || fail 'no Debian mirror is named in /etc/apt; add one to /etc/apt/sources.list'

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
mkdir -p "$scratch"/{lists/partial,cache/archives/partial,packages,root}
printf 'deb [signed-by=%s] %s %s main non-free\n' "$KEYRING" "$source_uri" "$RELEASE" >"$scratch/sources.list"
own_apt() {
  apt-get -qq -o "Dir::Etc::sourcelist=$scratch/sources.list" -o Dir::Etc::sourceparts=/dev/null -o Dir::Etc::preferencesparts=/dev/null \
    -o "Dir::State::lists=$scratch/lists" -o "Dir::Cache=$scratch/cache" -o APT::Sandbox::User=root "$@"
}
echo 'install-nvcc: reading the package lists'
own_apt update
echo 'install-nvcc: downloading'
(cd "$scratch/packages" && own_apt download "${PACKAGES[@]}")
echo 'install-nvcc: unpacking'
for package in "$scratch"/packages/*.deb; do dpkg-deb -x "$package" "$scratch/root"; done

# Debian spreads the toolkit over the file system; nvcc finds its parts relative to itself once they lie as NVIDIA lays them.
usr=$scratch/root/usr
lib=$usr/lib/x86_64-linux-gnu
mkdir -p "$PREFIX"/{bin,lib64,nvvm/bin,nvvm/lib64,nvvm/libdevice}
cp -a "$usr"/lib/nvidia-cuda-toolkit/bin/{nvcc,crt} "$PREFIX/bin/"
for tool in ptxas fatbinary nvlink cuobjdump nvdisasm bin2c cudafe++ nvprune; do cp -a "$usr/bin/$tool" "$PREFIX/bin/"; done
cp -a "$usr/lib/nvidia-cuda-toolkit/bin/cicc" "$PREFIX/nvvm/bin/"
cp -a "$usr"/lib/nvidia-cuda-toolkit/libdevice/*.bc "$PREFIX/nvvm/libdevice/"
cp -aL "$lib"/libnvvm.so.4* "$PREFIX/nvvm/lib64/"
rm -rf "$PREFIX/include"
cp -a "$usr/include" "$PREFIX/include"
cp -a "$lib"/libcudart_static.a "$lib"/libcudadevrt.a "$lib/stubs" "$PREFIX/lib64/"
cat >"$PREFIX/bin/nvcc.profile" <<'PROFILE'
TOP              = $(_HERE_)/..
NVVMIR_LIBRARY_DIR = $(TOP)/nvvm/libdevice
LD_LIBRARY_PATH += $(TOP)/lib64:
PATH            += $(TOP)/nvvm/bin:$(_HERE_):
INCLUDES        +=  "-I$(TOP)/include" $(_SPACE_)
LIBRARIES        =+ $(_SPACE_) "-L$(TOP)/lib64/stubs" "-L$(TOP)/lib64"
PROFILE
answers || fail "$PREFIX/bin/nvcc does not answer as 12.4; look at $PREFIX and remove it before trying again"
printf 'install-nvcc: nvcc 12.4 is in %s\n' "$PREFIX"
