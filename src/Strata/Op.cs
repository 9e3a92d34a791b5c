// SPDX-License-Identifier: Apache-2.0
// An op is a struct of its arguments; supported, workspace and run are the same three verbs for all of them.

using Strata.Bindings;

namespace Strata;

/// <summary>An op with its arguments filled in. Use the verbs of <see cref="OpVerbs"/>.</summary>
public interface IOp
{
    /// <summary>Calls one of the op's three native functions. For <see cref="OpVerbs"/>.</summary>
    /// <param name="invocation">Which one, on which device.</param>
    /// <returns>The native status.</returns>
    int Invoke(ref OpInvocation invocation);
}

/// <summary>One native call in the making: the device, the verb, and the verb's own arguments.</summary>
public unsafe ref struct OpInvocation
{
    internal enum Verb { Supported, Workspace, Run }

    internal Verb Which;
    internal Device Device;
    internal void* Scratch;
    internal nuint ScratchBytes;
    internal void* Stream;

    private (nint Start, long Bytes) _auxiliary;

    /// <summary>Tells a recording of host memory that the argument block points to and that is no buffer of the device.</summary>
    internal void Auxiliary(void* start, long bytes) => _auxiliary = ((nint)start, bytes);

    /// <summary>Calls the function of the verb with the native argument block.</summary>
    internal int Call<TArgs>(TArgs* args,
        delegate*<strata_context*, TArgs*, int> supported,
        delegate*<strata_context*, TArgs*, nuint*, int> workspace,
        delegate*<strata_context*, TArgs*, void*, nuint, void*, int> run) where TArgs : unmanaged
    {
        strata_context* context = Device.Handle.Pointer;
        switch (Which)
        {
            case Verb.Supported: return supported(context, args);
            case Verb.Run when CallRecorder.Active is { } recorder: return Record(recorder, args, run);
            case Verb.Run: return run(context, args, Scratch, ScratchBytes, Stream);
            default:
                nuint bytes = 0;
                int status = workspace(context, args, &bytes);
                ScratchBytes = bytes;
                return status;
        }
    }

    private readonly int Record<TArgs>(CallRecorder recorder, TArgs* args, delegate*<strata_context*, TArgs*, void*, nuint, void*, int> run) where TArgs : unmanaged
    {
        Device device = Device;
        (nint context, nint scratch, nuint bytes, nint stream) = ((nint)device.Handle.Pointer, (nint)Scratch, ScratchBytes, (nint)Stream);
        return recorder.Record(device, args, Scratch, _auxiliary.Bytes > 0 ? [_auxiliary] : [],
            () => run((strata_context*)context, args, (void*)scratch, bytes, (void*)stream));
    }
}

/// <summary>The verbs of every op.</summary>
public static unsafe class OpVerbs
{
    /// <summary>Whether the op can run on the device with these shapes and types. Data may be absent.</summary>
    /// <typeparam name="TOp">The op.</typeparam>
    /// <param name="op">Its arguments.</param>
    /// <param name="device">The device.</param>
    /// <param name="reason">Why not; "" if it can.</param>
    public static bool IsSupported<TOp>(this TOp op, Device device, out string reason) where TOp : struct, IOp
    {
        ArgumentNullException.ThrowIfNull(device);
        var call = new OpInvocation { Which = OpInvocation.Verb.Supported, Device = device };
        reason = op.Invoke(ref call) == 0 ? "" : StrataException.LastError();
        GC.KeepAlive(device);
        return reason.Length == 0;
    }

    /// <summary>Scratch bytes that <see cref="Run"/> needs on the device: an upper bound that grows with every extent.</summary>
    /// <typeparam name="TOp">The op.</typeparam>
    /// <param name="op">Its arguments; data may be absent.</param>
    /// <param name="device">The device.</param>
    /// <exception cref="StrataException">The shapes or types do not fit.</exception>
    public static long WorkspaceBytes<TOp>(this TOp op, Device device) where TOp : struct, IOp
    {
        ArgumentNullException.ThrowIfNull(device);
        var call = new OpInvocation { Which = OpInvocation.Verb.Workspace, Device = device };
        StrataException.ThrowIfFailed(op.Invoke(ref call));
        GC.KeepAlive(device);
        return checked((long)call.ScratchBytes);
    }

    /// <summary>Runs the op. Allocates nothing; on a GPU it is queued on the stream and its memory must live until the stream has passed it.</summary>
    /// <typeparam name="TOp">The op.</typeparam>
    /// <param name="op">Its arguments.</param>
    /// <param name="device">The device.</param>
    /// <param name="workspace">Scratch of at least <see cref="WorkspaceBytes"/>; null if that is 0. One run at a time may use it.</param>
    /// <param name="stream">The stream; null = the default one.</param>
    /// <exception cref="StrataException">Shapes, types, pointers, indices or the workspace do not fit; nothing was changed.</exception>
    public static void Run<TOp>(this TOp op, Device device, DeviceBuffer? workspace = null, StrataStream? stream = null) where TOp : struct, IOp =>
        op.RunAt(device, workspace, 0, stream);

    /// <summary>The same with the part of the workspace that begins at <paramref name="offset"/>.</summary>
    internal static void RunAt<TOp>(this TOp op, Device device, DeviceBuffer? workspace, long offset, StrataStream? stream) where TOp : struct, IOp
    {
        ArgumentNullException.ThrowIfNull(device);
        var call = new OpInvocation
        {
            Which = OpInvocation.Verb.Run,
            Device = device,
            Scratch = workspace is null ? null : (void*)(workspace.Pointer + (nint)offset),
            ScratchBytes = workspace is null ? 0 : (nuint)(workspace.Bytes - offset),
            Stream = StrataStream.Raw(stream),
        };
        StrataException.ThrowIfFailed(op.Invoke(ref call));
        GC.KeepAlive(workspace);
        GC.KeepAlive(stream);
        GC.KeepAlive(device);
    }
}
