// SPDX-License-Identifier: Apache-2.0
// The small model that ships with the tests, on a device.
using Strata.Engine.Gguf;
using Strata.Engine.Models;
using Strata.Engine.Tokenization;
using Strata.Tests.Support;

namespace Strata.Tests.Engine;

/// <summary>tests/data/tiny-shakespeare.Q4_0.gguf: loaded once per device.</summary>
internal static class TinyModel
{
    public const int Context = 1024;
    private static readonly Dictionary<Device, LlamaModel> Loaded = [];
    private static readonly Lock Gate = new();

    public static string Path => Data("tiny-shakespeare.Q4_0.gguf");

    public static string Text => File.ReadAllText(Data("tiny-shakespeare-valid.txt"));

    /// <summary>Tokens and the logits of each by an independent implementation: [64], [64, 1024].</summary>
    public static (int[] Ids, float[] Logits) Golden()
    {
        SafeTensors file = SafeTensors.Open(Data("tiny-shakespeare.Q4_0.logits.safetensors"));
        return (file["ids"].Integers(), file["logits"].Floats());
    }

    public static GgufTokenizer Tokenizer()
    {
        using GgufReader reader = GgufReader.Open(Path);
        return GgufTokenizer.Load(reader);
    }

    public static LlamaModel On(Device device)
    {
        lock (Gate)
        {
            if (!Loaded.TryGetValue(device, out LlamaModel? model))
            {
                using GgufReader reader = GgufReader.Open(Path);
                model = LlamaModel.Load(reader, device);
                Loaded.Add(device, model);
            }

            return model;
        }
    }

    private static string Data(string name) => System.IO.Path.Combine(TestContext.CurrentContext.TestDirectory, "data", name);
}
