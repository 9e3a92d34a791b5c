#!/usr/bin/env pwsh
# SPDX-License-Identifier: Apache-2.0
# The verbs of build.sh for PowerShell 7. On Linux they are build.sh's; on Windows the same steps with MinGW g++, CMake, Ninja and dotnet.
#
#   ./build.ps1 deps | gen [--check] | build | test [FILTER] | check | run [MODEL] | strata ARGS... | bench [ARGS...] | pack
$ErrorActionPreference = 'Stop'
$root = $PSScriptRoot
$verb = if ($args.Count) { $args[0] } else { 'help' }
$rest = @($args | Select-Object -Skip 1)

if (-not $IsWindows) {
    & bash (Join-Path $root 'build.sh') @args
    exit $LASTEXITCODE
}

Set-Location $root
if (-not $env:STRATA_BUILD) { $env:STRATA_BUILD = Join-Path $root 'build' }
$native = Join-Path $env:STRATA_BUILD 'native'
$managed = Join-Path $env:STRATA_BUILD 'dotnet'
$logs = Join-Path $env:STRATA_BUILD 'logs'
$tool = Join-Path $managed 'bin/Strata.Cli/release/strata.exe'
New-Item -ItemType Directory -Force $logs | Out-Null

function Stop-WithText([string] $text) {
    [Console]::Error.WriteLine($text)
    exit 1
}

# Runs a program into a log; on failure shows the lines of the log that say why.
function Invoke-Step([string] $name, [scriptblock] $command, [switch] $MayFail) {
    [Console]::Error.WriteLine("  ${name}")
    $log = Join-Path $logs (($name -replace '[^a-zA-Z0-9_-]', '-') + '.log')
    & $command *> $log
    $code = $LASTEXITCODE
    if ($code -eq 0 -or $MayFail) { return $code }
    $lines = @(Select-String -Path $log -Pattern ': error|error:|FAILED:|CMake Error' | Select-Object -ExpandProperty Line -Unique -First 30)
    if (-not $lines) { $lines = Get-Content $log -Tail 30 }
    $lines | ForEach-Object { [Console]::Error.WriteLine($_) }
    Stop-WithText "$name failed; the whole log is $log"
}

function Assert-Dependencies {
    $wanted = [ordered]@{
        'g++'    = 'MinGW-w64 g++ 12 or later'
        'cmake'  = 'CMake 3.24 or later'
        'ninja'  = 'Ninja'
        'dotnet' = 'the .NET 10 SDK'
    }
    foreach ($program in $wanted.Keys) {
        if (-not (Get-Command $program -ErrorAction SilentlyContinue)) { Stop-WithText "deps: $program is not on the PATH; install $($wanted[$program])" }
    }
}

function Build-Native {
    if (-not (Test-Path (Join-Path $native 'build.ninja'))) {
        Invoke-Step 'configure release' { cmake --preset release --fresh -B $native -DCMAKE_CXX_COMPILER=g++ } | Out-Null
    }
    Invoke-Step 'native release' { cmake --build $native } | Out-Null
}

function Build-All {
    Assert-Dependencies
    Build-Native
    Invoke-Step 'managed' { dotnet build Kernels.sln -c Release --nologo } | Out-Null
}

function Invoke-Generator([string[]] $options) {
    if (-not (Get-Command castxml -ErrorAction SilentlyContinue)) { Stop-WithText 'gen: castxml is not on the PATH; install CastXML' }
    Invoke-Step 'generator' { dotnet build bindings/Strata.BindGen -c Release --nologo } | Out-Null
    & (Join-Path $managed 'bin/Strata.BindGen/release/Strata.BindGen.exe') @options
    return $LASTEXITCODE
}

function Invoke-Tests([string] $filter) {
    Build-All
    $passed = 0; $failed = 0; $skipped = 0

    $junit = Join-Path $logs 'native.junit.xml'
    $pick = if ($filter) { @('-R', $filter) } else { @() }
    Remove-Item $junit -ErrorAction SilentlyContinue
    $code = Invoke-Step 'tests native' { ctest --test-dir $native --output-on-failure --timeout 900 --no-tests=ignore --output-junit $junit @pick } -MayFail
    if (Test-Path $junit) {
        $suite = ([xml](Get-Content $junit -Raw)).testsuite
        $passed += [int]$suite.tests - [int]$suite.failures - [int]$suite.skipped
        $failed += [int]$suite.failures
        $skipped += [int]$suite.skipped
    } elseif ($code -ne 0) { $failed += 1 }

    $results = Join-Path $logs 'trx'
    $trx = Join-Path $results 'tests.trx'
    $pick = if ($filter) { @('--filter', "FullyQualifiedName~$filter") } else { @() }
    Remove-Item $trx -ErrorAction SilentlyContinue
    $code = Invoke-Step 'tests managed' { dotnet test tests/Strata.Tests -c Release --no-build --nologo --logger 'trx;LogFileName=tests.trx' --results-directory $results @pick } -MayFail
    if (Test-Path $trx) {
        $run = ([xml](Get-Content $trx -Raw)).TestRun
        $counters = $run.ResultSummary.Counters
        $bad = [int]$counters.executed - [int]$counters.passed
        if ($code -ne 0 -and $bad -eq 0) { $bad = 1 }
        $passed += [int]$counters.passed
        $failed += $bad
        $skipped += [int]$counters.total - [int]$counters.executed
        $run.Results.UnitTestResult | Where-Object outcome -eq 'Failed' | ForEach-Object { [Console]::Error.WriteLine("  FAILED $($_.testName): $($_.Output.ErrorInfo.Message)") }
        $run.Results.UnitTestResult | Where-Object outcome -eq 'NotExecuted' | Group-Object { $_.Output.ErrorInfo.Message } |
            ForEach-Object { [Console]::Error.WriteLine("  skipped $($_.Count) $($_.Name)") }
    } elseif ($code -ne 0) { $failed += 1 }

    if ($passed + $failed -eq 0) {
        [Console]::Error.WriteLine("test: no test matches ""$filter""")
        $failed = 1
    }
    Write-Output "$passed passed, $failed failed, $skipped skipped"
    exit [int]($failed -ne 0)
}

switch ($verb) {
    'deps' { Assert-Dependencies }
    'gen' { Assert-Dependencies; exit (Invoke-Generator $rest) }
    'build' { Build-All }
    'test' { Invoke-Tests ($rest | Select-Object -First 1) }
    'check' {
        Build-All
        Invoke-Step 'C# format' { dotnet format whitespace Kernels.sln --no-restore --verify-no-changes } | Out-Null
        exit (Invoke-Generator @('--check'))
    }
    'run' {
        Build-All
        $model = if ($rest) { $rest[0] } elseif ($env:STRATA_MODEL) { $env:STRATA_MODEL } else { 'tests/data/tiny-shakespeare.Q4_0.gguf' }
        & $tool verify
        & $tool bench --quick
        & $tool generate -m $model -p 'First Citizen:' -n 64
        exit $LASTEXITCODE
    }
    'strata' { Build-All; & $tool @rest; exit $LASTEXITCODE }
    'bench' { Build-All; & $tool bench @rest; exit $LASTEXITCODE }
    'pack' {
        Build-All
        Invoke-Step 'pack' { dotnet pack Kernels.sln -c Release --no-build --nologo -o (Join-Path $env:STRATA_BUILD 'packages') } | Out-Null
    }
    default { Stop-WithText "build.ps1: unknown verb $verb; the verbs are deps, gen, build, test, check, run, strata, bench, pack" }
}
