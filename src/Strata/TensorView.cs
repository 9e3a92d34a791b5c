// SPDX-License-Identifier: Apache-2.0
// A borrowed, strided view: the currency of all ops. A plain struct without allocation.

using System.Runtime.CompilerServices;
using Strata.Bindings;

namespace Strata;

/// <summary>
/// A borrowed view of device memory: address, element type, up to four extents and strides (in elements, the last dimension dense).
/// It owns nothing but keeps its owner reachable, so the garbage collector cannot free the memory under a call. <c>default</c> is an absent tensor.
/// </summary>
public readonly unsafe struct TensorView
{
    /// <summary>Most dimensions of a view.</summary>
    public const int MaxDims = 4;

    private readonly strata_tensor _raw;

    private TensorView(strata_tensor raw, object? owner)
    {
        _raw = raw;
        Owner = owner;
    }

    /// <summary>What keeps the memory alive; may be null for memory of others.</summary>
    public object? Owner { get; }

    /// <summary>Device address of element 0.</summary>
    public nint Pointer => (nint)_raw.data;

    /// <summary>Element type; <see cref="DType.None"/> for an absent tensor.</summary>
    public DType DType => (DType)_raw.dtype;

    /// <summary>Number of dimensions; 0 for an absent tensor.</summary>
    public int Rank => _raw.ndim;

    /// <summary>Whether there is a tensor.</summary>
    public bool IsPresent => _raw.ndim != 0;

    /// <summary>The view as the C ABI takes it.</summary>
    internal strata_tensor Raw => _raw;

    /// <summary>Extent of a dimension.</summary>
    /// <param name="dimension">0 to <see cref="Rank"/> - 1.</param>
    public long Shape(int dimension)
    {
        ArgumentOutOfRangeException.ThrowIfGreaterThanOrEqual((uint)dimension, (uint)Rank);
        return _raw.shape[dimension];
    }

    /// <summary>Stride of a dimension in elements.</summary>
    /// <param name="dimension">0 to <see cref="Rank"/> - 1.</param>
    public long Stride(int dimension)
    {
        ArgumentOutOfRangeException.ThrowIfGreaterThanOrEqual((uint)dimension, (uint)Rank);
        return _raw.stride[dimension];
    }

    /// <summary>A view of memory that somebody else owns: ILGPU, TorchSharp, ManagedCuda, a pinned array.</summary>
    /// <typeparam name="T">Element type.</typeparam>
    /// <param name="pointer">Address of element 0.</param>
    /// <param name="shape">1 to 4 extents.</param>
    /// <param name="owner">Kept reachable as long as the view is; may be null.</param>
    /// <param name="stride">Strides in elements; empty = dense.</param>
    public static TensorView Borrow<T>(nint pointer, ReadOnlySpan<long> shape, object? owner, ReadOnlySpan<long> stride = default) where T : unmanaged =>
        Borrow(pointer, DTypes.Of<T>(), shape, owner, stride);

    /// <summary>The same with the element type as a value.</summary>
    /// <param name="pointer">Address of element 0.</param>
    /// <param name="type">Element type.</param>
    /// <param name="shape">1 to 4 extents.</param>
    /// <param name="owner">Kept reachable as long as the view is; may be null.</param>
    /// <param name="stride">Strides in elements; empty = dense.</param>
    /// <exception cref="ArgumentException">Not 1 to 4 extents, or as many strides.</exception>
    public static TensorView Borrow(nint pointer, DType type, ReadOnlySpan<long> shape, object? owner, ReadOnlySpan<long> stride = default)
    {
        if (shape.Length is < 1 or > MaxDims) throw new ArgumentException($"tensor: {shape.Length} dimensions, must be 1 to {MaxDims}; merge or split some", nameof(shape));
        if (stride.Length != 0 && stride.Length != shape.Length) throw new ArgumentException($"tensor: {stride.Length} strides for {shape.Length} dimensions, must be as many; pass one each or none", nameof(stride));
        var raw = new strata_tensor { data = (void*)pointer, dtype = (int)type, ndim = shape.Length };
        long dense = 1;
        for (int i = shape.Length - 1; i >= 0; i--)
        {
            raw.shape[i] = shape[i];
            raw.stride[i] = stride.Length != 0 ? stride[i] : dense;
            dense = unchecked(dense * Math.Max(1, shape[i])); // the native check refuses what does not fit
        }
        return new TensorView(raw, owner);
    }

    /// <summary>A part of the first dimension.</summary>
    /// <param name="start">First index.</param>
    /// <param name="count">How many.</param>
    /// <exception cref="ArgumentOutOfRangeException">The part does not lie in the dimension.</exception>
    public TensorView Slice(long start, long count)
    {
        if (Rank == 0 || start < 0 || count < 0 || start > _raw.shape[0] - count)
        {
            throw new ArgumentOutOfRangeException(nameof(start), start, $"tensor: {count} rows from {start} do not lie in {(Rank == 0 ? 0 : _raw.shape[0])}; shorten the slice");
        }
        strata_tensor raw = _raw;
        raw.data = (byte*)_raw.data + checked(start * _raw.stride[0] * DType.Size());
        raw.shape[0] = count;
        return new TensorView(raw, Owner);
    }

    /// <summary>The same dense memory with other extents.</summary>
    /// <param name="shape">Extents with the same number of elements.</param>
    /// <exception cref="ArgumentException">The view is not dense, or the number of elements differs.</exception>
    public TensorView Reshape(params ReadOnlySpan<long> shape)
    {
        long dense = 1, elements = 1;
        for (int i = Rank - 1; i >= 0; i--)
        {
            if (_raw.shape[i] > 1 && _raw.stride[i] != dense) throw new ArgumentException("tensor: a strided view has no other shape, must be dense; copy it first", nameof(shape));
            dense *= Math.Max(1, _raw.shape[i]);
            elements *= _raw.shape[i];
        }
        if (Elements(shape) != elements) throw new ArgumentException($"tensor: the new shape has {Elements(shape)} elements, must have {elements}; keep their number", nameof(shape));
        return Borrow(Pointer, DType, shape, Owner);
    }

    internal static long Elements(ReadOnlySpan<long> shape)
    {
        long elements = 1;
        foreach (long extent in shape)
        {
            ArgumentOutOfRangeException.ThrowIfNegative(extent, nameof(shape));
            elements = checked(elements * extent);
        }
        return elements;
    }

    /// <summary>Keeps the owners of views reachable up to here.</summary>
    [MethodImpl(MethodImplOptions.NoInlining)]
    internal static void KeepAlive(in TensorView a, in TensorView b = default, in TensorView c = default, in TensorView d = default, in TensorView e = default)
    {
        GC.KeepAlive(a.Owner);
        GC.KeepAlive(b.Owner);
        GC.KeepAlive(c.Owner);
        GC.KeepAlive(d.Owner);
        GC.KeepAlive(e.Owner);
    }
}
