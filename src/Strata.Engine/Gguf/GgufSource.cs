// SPDX-License-Identifier: Apache-2.0
// The bytes of a model file, mapped or in memory, handed out only as spans that lie inside.
using System.IO.MemoryMappedFiles;

namespace Strata.Engine.Gguf;

internal abstract class GgufSource : IDisposable
{
    public abstract long Length { get; }

    public abstract ReadOnlySpan<byte> Slice(long offset, int length);

    public abstract void Dispose();

    protected void Check(long offset, int length)
    {
        if (!SizeMath.IsInside(offset, length, Length))
        {
            throw new ArgumentOutOfRangeException(
                nameof(offset),
                $"gguf: {length} bytes at offset {offset} are asked for, must lie inside the {Length} bytes of the file; ask for a tensor of this file");
        }
    }

    internal sealed class InMemory(ReadOnlyMemory<byte> bytes) : GgufSource
    {
        private bool _disposed;

        public override long Length => bytes.Length;

        public override ReadOnlySpan<byte> Slice(long offset, int length)
        {
            ObjectDisposedException.ThrowIf(_disposed, typeof(GgufReader));
            Check(offset, length);
            return bytes.Span.Slice((int)offset, length);
        }

        public override void Dispose() => _disposed = true;
    }

    internal sealed unsafe class Mapped : GgufSource
    {
        private readonly MemoryMappedFile _file;
        private readonly MemoryMappedViewAccessor _view;
        private readonly long _length;
        private byte* _start;

        public Mapped(string path)
        {
            using var stream = new FileStream(path, FileMode.Open, FileAccess.Read, FileShare.Read, bufferSize: 0);
            _length = stream.Length;
            if (_length == 0)
            {
                throw new StrataFormatException("gguf: the file is 0 bytes long, must be at least the 24 bytes of a header; copy the model again", 0);
            }

            _file = MemoryMappedFile.CreateFromFile(stream, mapName: null, _length, MemoryMappedFileAccess.Read, HandleInheritability.None, leaveOpen: false);
            try
            {
                _view = _file.CreateViewAccessor(0, _length, MemoryMappedFileAccess.Read);

                // Holds the mapping until Dispose, so a collected reader can never unmap memory that a span still names.
                _view.SafeMemoryMappedViewHandle.AcquirePointer(ref _start);
            }
            catch
            {
                _view?.Dispose();
                _file.Dispose();
                throw;
            }
        }

        public override long Length => _length;

        public override ReadOnlySpan<byte> Slice(long offset, int length)
        {
            ObjectDisposedException.ThrowIf(_start is null, typeof(GgufReader));
            Check(offset, length);
            return new ReadOnlySpan<byte>(_start + _view.PointerOffset + offset, length);
        }

        public override void Dispose()
        {
            if (_start is not null)
            {
                _start = null;
                _view.SafeMemoryMappedViewHandle.ReleasePointer();
                _view.Dispose();
                _file.Dispose();
            }
        }
    }
}
