// SPDX-License-Identifier: Apache-2.0
// ONNX Runtime: one process-wide pool of threads, sessions on it, and runs whose inputs and outputs are bound once.

using System.Diagnostics.CodeAnalysis;
using Microsoft.ML.OnnxRuntime;
using Microsoft.ML.OnnxRuntime.Tensors;
using Strata.Reference;

namespace Strata.Runner.Peers;

/// <summary>Makes sessions. Each holds a few calls only, and there are hundreds: with threads of their own they would wake them for every run.</summary>
/// <param name="threads">Threads of a call.</param>
internal sealed class OnnxRuntime(int threads)
{
    private static readonly Lock s_lock = new();
    private static int s_threads;

    /// <summary>Why the library is not here; null = it is, with the pool started.</summary>
    [SuppressMessage("Reliability", "CA2000", Justification = "The environment lives as long as the process.")]
    public string? Start()
    {
        lock (s_lock)
        {
            if (s_threads == threads) return null;
            if (s_threads != 0) return $"onnxruntime: the process already has its pool of {s_threads} threads, must be {threads}; start another process";
            try
            {
                using var pool = new OrtThreadingOptions { GlobalIntraOpNumThreads = threads, GlobalInterOpNumThreads = 1, GlobalSpinControl = true };
                var options = new EnvironmentCreationOptions { logId = "strata", logLevel = OrtLoggingLevel.ORT_LOGGING_LEVEL_ERROR, threadOptions = pool };
                OrtEnv.CreateInstanceWithOptions(ref options);
                s_threads = threads;
                return null;
            }
            catch (Exception e) when (e is TypeInitializationException or DllNotFoundException or EntryPointNotFoundException or BadImageFormatException)
            {
                return $"onnxruntime: the native library could not be loaded ({(e.InnerException ?? e).Message}), must be the one of the package Microsoft.ML.OnnxRuntime; restore it for this system";
            }
        }
    }

    /// <summary>A session of a model. Optimisations of the graph are off: there is nothing to fuse, and equal calls must not become one.</summary>
    /// <param name="model">The model.</param>
    public InferenceSession Open(OnnxModel model)
    {
        if (Start() is { } reason) throw new StrataException(reason);
        using var options = new SessionOptions
        {
            ExecutionMode = ExecutionMode.ORT_SEQUENTIAL,
            GraphOptimizationLevel = GraphOptimizationLevel.ORT_DISABLE_ALL,
        };
        options.DisablePerSessionThreads();
        options.AddSessionConfigEntry("session.disable_prepacking", "0");
        try
        {
            return new InferenceSession(model.ToBytes(), options);
        }
        catch (OnnxRuntimeException e)
        {
            throw Sentence(e);
        }
    }

    /// <summary>The library's message in one line.</summary>
    /// <param name="e">What it threw.</param>
    public static StrataException Sentence(OnnxRuntimeException e) => new($"onnxruntime: {string.Join(' ', e.Message.Split('\n', StringSplitOptions.TrimEntries | StringSplitOptions.RemoveEmptyEntries))}", e);

    /// <summary>The type of an element in a model.</summary>
    /// <param name="type">F32, F16, I32 or U8.</param>
    public static TensorElementType ElementType(DType type) => type switch
    {
        DType.F32 => TensorElementType.Float,
        DType.F16 => TensorElementType.Float16,
        DType.I32 => TensorElementType.Int32,
        DType.U8 => TensorElementType.UInt8,
        _ => throw new ArgumentOutOfRangeException(nameof(type), type, "onnxruntime: type must be F32, F16, I32 or U8; convert the tensor"),
    };
}

/// <summary>One session with everything bound.</summary>
internal abstract class OnnxRun : OpRun
{
    private static readonly RunOptions s_options = new();

    private readonly InferenceSession _session;
    private readonly OrtIoBinding _binding;
    private readonly Device _device;

    [SuppressMessage("Reliability", "CA2000", Justification = "The run owns it.")]
    protected OnnxRun(OnnxRuntime runtime, OnnxModel model, Device device)
    {
        _session = Own(runtime.Open(model));
        _binding = Own(_session.CreateIoBinding());
        _device = device;
    }

    public sealed override void Run(StrataStream? stream = null)
    {
        try
        {
            _session.RunWithBinding(s_options, _binding);
        }
        catch (OnnxRuntimeException e)
        {
            throw OnnxRuntime.Sentence(e);
        }
    }

    /// <summary>Nothing: a run leaves its inputs as they were.</summary>
    public sealed override void Reset() { }

    /// <summary>A peer is compared with the oracle, not bit by bit.</summary>
    public sealed override byte[] Outputs() => [];

    /// <summary>A tensor in memory of the device, where our own op's tensors lie too.</summary>
    /// <param name="host">Its values, dense.</param>
    /// <param name="shape">Its shape in the model; none = that of the values.</param>
    [SuppressMessage("Reliability", "CA2000", Justification = "The run owns it.")]
    protected (DeviceArray Array, OrtValue Value) Tensor(HostTensor host, params long[] shape)
    {
        DeviceArray array = Own(host.Upload(_device));
        OrtValue value = Own(OrtValue.CreateTensorValueWithData(OrtMemoryInfo.DefaultInstance, OnnxRuntime.ElementType(host.DType), shape.Length == 0 ? host.Shape : shape, array.Buffer.Pointer, host.DataBytes));
        return (array, value);
    }

    protected void BindInput(string name, OrtValue value) => _binding.BindInput(name, value);

    protected void BindOutput(string name, OrtValue value) => _binding.BindOutput(name, value);
}
