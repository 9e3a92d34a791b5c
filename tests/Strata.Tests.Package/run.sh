#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Restores the packed packages into a fresh application, runs it on the runtime and as native code.
#
#   run.sh FOLDER_WITH_PACKAGES
set -euo pipefail
packages=$1
cd "$(dirname "${BASH_SOURCE[0]}")"
work=$STRATA_BUILD/package-test
# A package of the same version may have been restored before; it must not be used again.
rm -rf "$work" "$packages/../package-cache/strata" "$packages/../package-cache/strata.bindings"
common=(-c Release --nologo -p:StrataPackages="$packages" -p:RestorePackagesPath="$packages/../package-cache")

dotnet run "${common[@]}" -- | tee "$work.managed"
grep -q '^rms_norm/' "$work.managed"
dotnet publish "${common[@]}" -r linux-x64 -o "$work"
"$work/Strata.Tests.Package" | tee "$work.native"
grep -q "^rms_norm/.* from $work/libstrata.so" "$work.native"
printf 'package test: works on the runtime and as native code (%s)\n' "$(du -h "$work/Strata.Tests.Package" | cut -f1)"
