// SPDX-License-Identifier: Apache-2.0
// An ONNX model in memory. Numbers of fields are those of onnx.proto.

using Microsoft.ML.OnnxRuntime.Tensors;

namespace Strata.Runner.Peers;

/// <summary>A graph of inputs, constants, nodes and outputs.</summary>
internal sealed class OnnxModel
{
    private const int IrVersion = 10, OnnxOpset = 21;
    private const int AttributeFloat = 1, AttributeInt = 2;

    /// <summary>The domain of ONNX Runtime's own ops.</summary>
    private const string Domain = "com.microsoft";

    private readonly ProtoMessage _graph = new ProtoMessage().Add(2, "peer");

    public OnnxModel Input(string name, TensorElementType type, params ReadOnlySpan<long> shape)
    {
        _graph.Add(11, Value(name, type, shape));
        return this;
    }

    public OnnxModel Output(string name, TensorElementType type, params ReadOnlySpan<long> shape)
    {
        _graph.Add(12, Value(name, type, shape));
        return this;
    }

    public OnnxModel Constant(string name, TensorElementType type, ReadOnlySpan<byte> data, params ReadOnlySpan<long> shape)
    {
        var tensor = new ProtoMessage();
        foreach (long extent in shape) tensor.Add(1, extent);
        _graph.Add(5, tensor.Add(2, (long)type).Add(8, name).Add(9, data));
        return this;
    }

    /// <summary>A node of the domain com.microsoft.</summary>
    /// <param name="op">Its op.</param>
    /// <param name="inputs">Names; "" leaves an optional one out.</param>
    /// <param name="outputs">Names.</param>
    /// <param name="attributes">long or float values.</param>
    public OnnxModel Node(string op, IEnumerable<string> inputs, IEnumerable<string> outputs, params (string Name, object Value)[] attributes)
    {
        var node = new ProtoMessage();
        foreach (string input in inputs) node.Add(1, input);
        foreach (string output in outputs) node.Add(2, output);
        node.Add(4, op).Add(7, Domain);
        foreach ((string name, object value) in attributes)
        {
            var attribute = new ProtoMessage().Add(1, name);
            node.Add(5, value is float number ? attribute.Add(2, number).Add(20, AttributeFloat) : attribute.Add(3, (long)value).Add(20, AttributeInt));
        }
        _graph.Add(1, node);
        return this;
    }

    public byte[] ToBytes() => new ProtoMessage()
        .Add(1, IrVersion)
        .Add(8, new ProtoMessage().Add(1, "").Add(2, OnnxOpset))
        .Add(8, new ProtoMessage().Add(1, Domain).Add(2, 1))
        .Add(7, _graph)
        .ToArray();

    private static ProtoMessage Value(string name, TensorElementType type, ReadOnlySpan<long> shape)
    {
        var dimensions = new ProtoMessage();
        foreach (long extent in shape) dimensions.Add(1, new ProtoMessage().Add(1, extent));
        ProtoMessage tensor = new ProtoMessage().Add(1, (long)type).Add(2, dimensions);
        return new ProtoMessage().Add(1, name).Add(2, new ProtoMessage().Add(1, tensor));
    }
}
