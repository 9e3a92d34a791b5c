// SPDX-License-Identifier: Apache-2.0
// Safe handles. A child holds a reference on its device, so the device outlives it even on the finalizer thread.

using System.Runtime.InteropServices;
using Strata.Bindings;

namespace Strata;

internal sealed unsafe class ContextHandle : SafeHandle
{
    public ContextHandle(strata_context* context) : base(0, ownsHandle: true) => SetHandle((nint)context);

    public override bool IsInvalid => handle == 0;

    /// <summary>The native context.</summary>
    /// <exception cref="ObjectDisposedException">The device was disposed of.</exception>
    public strata_context* Pointer
    {
        get
        {
            ObjectDisposedException.ThrowIf(IsClosed, typeof(Device));
            return (strata_context*)handle;
        }
    }

    protected override bool ReleaseHandle()
    {
        Native.strata_context_destroy((strata_context*)handle);
        return true;
    }
}

/// <summary>A native object that belongs to a device.</summary>
internal abstract class ChildHandle : SafeHandle
{
    private readonly ContextHandle _parent;

    protected ChildHandle(ContextHandle parent, nint value) : base(0, ownsHandle: true)
    {
        bool added = false;
        parent.DangerousAddRef(ref added);
        _parent = parent;
        SetHandle(value);
    }

    public override bool IsInvalid => handle == 0;

    protected unsafe strata_context* Parent => (strata_context*)_parent.DangerousGetHandle();

    protected abstract void Destroy(nint value);

    protected override bool ReleaseHandle()
    {
        Destroy(handle);
        _parent.DangerousRelease();
        return true;
    }
}

internal sealed unsafe class BufferHandle(ContextHandle parent, strata_buffer* buffer) : ChildHandle(parent, (nint)buffer)
{
    protected override void Destroy(nint value) => Native.strata_buffer_destroy((strata_buffer*)value);
}

internal sealed unsafe class EventHandle(ContextHandle parent, strata_event* value) : ChildHandle(parent, (nint)value)
{
    protected override void Destroy(nint value) => Native.strata_event_destroy((strata_event*)value);
}

/// <summary>A stream; zero is a real value on synchronous devices, so nothing is ever invalid.</summary>
internal sealed unsafe class StreamHandle(ContextHandle parent, void* stream, bool owned) : ChildHandle(parent, (nint)stream)
{
    public override bool IsInvalid => false;

    protected override void Destroy(nint value)
    {
        if (owned && value != 0) _ = Native.strata_stream_destroy(Parent, (void*)value);
    }
}
