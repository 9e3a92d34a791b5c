// SPDX-License-Identifier: Apache-2.0
// dotnet run -c Release --project bench/Strata.Bench -- --filter '*'
// Benchmarks run in this process: the toolchain that BenchmarkDotNet would generate does not know where the native libraries are built.

using BenchmarkDotNet.Configs;
using BenchmarkDotNet.Jobs;
using BenchmarkDotNet.Running;
using BenchmarkDotNet.Toolchains.InProcess.Emit;

IConfig config = DefaultConfig.Instance
    .AddJob(Job.ShortRun.WithToolchain(InProcessEmitToolchain.Instance))
    .WithArtifactsPath(Path.Combine(AppContext.BaseDirectory, "results"));
BenchmarkSwitcher.FromAssembly(typeof(Strata.Bench.HostOverhead).Assembly).Run(args, config);
