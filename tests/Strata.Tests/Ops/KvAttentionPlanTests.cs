// SPDX-License-Identifier: Apache-2.0
// kv_attention's plans: made on the host, on the device or by the run itself they change nothing; damaged ones are refused.

using Strata.Reference;
using Strata.Tests.Support;

namespace Strata.Tests.Ops;

[TestFixture]
public sealed class KvAttentionPlanTests
{
    private const int Heads = 6;

    // Words of a plan (kv_attention_plan.h): a header, then items of 8 words, then merges of 8 words.
    private const int HeaderWords = 16, ItemWords = 8, FewItems = 5, Items = 6, Merges = 7, Partials = 8;

    private static readonly KvCacheShape s_shape = new(DType.F16, 1, 2, 32);
    private static readonly Sequence[] s_batch = [new(1, 1500), new(2, 33, Tokens: 33), new(3, 0), new(4, 700, Tokens: 2), new(5, 65, Tokens: 20)];

    [TestCaseSource(typeof(TestDevices), nameof(TestDevices.All))]
    public void Plan_OnHostOrDevice_SameWordsAndSameResult(TestDevice device)
    {
        Device open = TestDevices.Open(device);
        foreach (Func<KvAttention, KvAttention> options in new Func<KvAttention, KvAttention>[] { op => op, op => op with { BatchInvariant = true }, op => op with { Window = 300, WindowSinks = 5 }, op => op with { Causal = false } })
        {
            Attended want = Attending.Run(open, s_shape, s_batch, Heads, with: options);
            int[] host = [], onDevice = [];
            Attended withHost = Attending.Run(open, s_shape, s_batch, Heads, with: op =>
            {
                op = options(op);
                host = OnHost(open, op);
                return op with { Plan = Upload(open, host) };
            });
            Attended withDevice = Attending.Run(open, s_shape, s_batch, Heads, seed: 2, op =>
            {
                op = options(op);
                DeviceTensor<int> plan = Upload(open, new int[op.PlanWords(open)]);
                op.PlanOnDevice(open, plan);
                open.Synchronize();
                onDevice = plan.ToArray();
                return op with { Plan = plan };
            });
            Attending.AssertSame(withHost, want, "planned on the host");
            Attending.AssertSame(withDevice, want, "planned on the device");
            Assert.That(Used(onDevice), Is.EqualTo(Used(host)));
        }
    }

    [TestCaseSource(typeof(TestDevices), nameof(TestDevices.All))]
    public void Plan_OfOneStep_ServesItsLayers(TestDevice device)
    {
        Device open = TestDevices.Open(device);
        DeviceTensor<int>? plan = null;
        foreach (int layer in new[] { 10, 20, 30 })
        {
            Sequence[] batch = [.. s_batch.Select(s => s with { Number = s.Number + layer })];
            Attended want = Attending.Run(open, s_shape, batch, Heads);
            Attending.AssertSame(Attending.Run(open, s_shape, batch, Heads, seed: layer, op => op with { Plan = plan ??= Upload(open, OnHost(open, op)) }), want, $"layer {layer}");
        }
        plan!.Dispose();
    }

    [Test]
    public void PlanWords_LargerExtents_NeverLessAndNeverMuch()
    {
        Device open = TestDevices.Open(new TestDevice("cpu", null));
        foreach (bool invariant in new[] { false, true })
        {
            long last = 0;
            foreach (int tokens in new[] { 0, 1, 2, 9, 48, 49, 500, 5000 })
            {
                long words = Shapes(tokens, maxPages: 64, invariant).PlanWords(open);
                Assert.That(words, Is.GreaterThanOrEqualTo(Math.Max(last, HeaderWords)));
                Assert.That(words, Is.LessThanOrEqualTo(Shapes(tokens, maxPages: 65, invariant).PlanWords(open)));
                Assert.That(words, Is.LessThan(1 << 18));
                last = words;
            }
        }
    }

    [Test]
    public void Plan_WrongArguments_SentenceAndNothingWritten()
    {
        Device open = TestDevices.Open(new TestDevice("cpu", null));
        Attending.Run(open, s_shape, s_batch, Heads, with: op =>
        {
            int words = checked((int)op.PlanWords(open));
            int[] lengths = [.. s_batch.SelectMany(s => new[] { s.Length, s.Length })], offsets = [0, 1, 34, 35, 37, 57], room = [.. Enumerable.Repeat(7, words)];
            Fails(() => op.PlanOnHost(open, lengths, offsets, room.AsSpan(1)), StrataStatus.Workspace, $"kv_attention: plan has {words - 1} words, must have {words}; ask strata_kv_attention_plan_words");
            Fails(() => op.PlanOnHost(open, lengths, offsets, default), StrataStatus.Workspace, $"kv_attention: plan has 0 words, must have {words}; ask strata_kv_attention_plan_words");
            using DeviceTensor<int> small = Upload(open, room[1..]);
            Fails(() => op.PlanOnDevice(open, small), StrataStatus.Workspace, $"kv_attention: plan has {words - 1} words, must have {words}; ask strata_kv_attention_plan_words");
            Assert.That(small.ToArray(), Is.All.EqualTo(7));
            foreach (int length in new[] { -1, int.MinValue, int.MaxValue })
            {
                int[] bad = [.. lengths];
                bad[3] = length;
                Fails(() => op.PlanOnHost(open, bad, offsets, room), StrataStatus.Index, $"kv_attention: cache.lengths[1,1] is {length}, must be at most max_length = 1600; raise max_length or leave it 0");
            }
            int[] falling = [0, 1, 34, 33, 37, 57];
            Fails(() => op.PlanOnHost(open, lengths, falling, room), StrataStatus.Index, "kv_attention: row_offsets[3] is 33, must rise from 0 to the row count 57; rebuild the offsets");
            Fails(() => (op with { Window = -1 }).PlanOnHost(open, lengths, offsets, room), StrataStatus.Argument, "kv_attention: window is -1, must be 0 to 2147483647; pass 0 for no window");
            Fails(() => (op with { Q = default }).PlanWords(open), StrataStatus.Shape, "kv_attention: q.ndim is 0, must be 3; describe the tensor with all its dimensions");
            Assert.That(() => op.PlanOnHost(open, lengths.AsSpan(1), offsets, room), Throws.ArgumentException.With.Message.StartsWith("kv_attention: 9 lengths, must be 10 as in the op's tensor; pass one number for each of its elements"));
            Assert.That(() => op.PlanOnHost(open, lengths, [], room), Throws.ArgumentException.With.Message.StartsWith("kv_attention: 0 rowOffsets, must be 6"));
            Assert.That(room, Is.All.EqualTo(7));
            return op;
        });
    }

    // On the CPU every word that a run follows is checked before it is followed.
    [Test]
    public void Run_DamagedPlan_SentenceAndNoChange()
    {
        Device open = TestDevices.Open(new TestDevice("cpu", null));
        Attending.Run(open, s_shape, s_batch, Heads, with: op =>
        {
            int[] good = OnHost(open, op);
            Assert.That(good[Merges], Is.GreaterThan(0), "the batch must have a sequence that is cut");
            Assert.That(good[FirstMerge(good) + 3], Is.GreaterThan(1), "into parts of several rows");
            Assert.That(good[FewItems], Is.InRange(1, good[Items] - 1), "and tiles of both kinds");
            int merge = FirstMerge(good);
            DeviceTensor<float> output = open.Upload<float>([.. Enumerable.Repeat(9f, 57 * Heads * 32)], 57, Heads, 32);
            KvAttention target = op with { Output = output };

            Refused(0, 0, StrataStatus.Argument, "kv_attention: plan is for 5 sequences, 2 KV heads, 57 tokens and groups of 3, must be for 5, 2, 57 and 3; make it with strata_kv_attention_plan for this call");
            foreach (int word in new[] { 1, 2, 3, 4 }) Refused(word, good[word] + 1, StrataStatus.Argument, "kv_attention: plan is for ");
            foreach (int word in new[] { FewItems, Items, Merges, Partials })
            {
                foreach (int value in new[] { -1, int.MinValue, int.MaxValue }) Refused(word, value, StrataStatus.Index, "kv_attention: plan counts ");
            }
            for (int item = 0; item < good[Items]; item += Math.Max(1, good[Items] - 1))
            {
                for (int word = 0; word < ItemWords; word++)
                {
                    // A number that is negative, or too large, in each of: sequence, head, row, rows, begin, end, sinks, partial.
                    Refused(HeaderWords + (item * ItemWords) + word, word == 7 ? -2 : -1, StrataStatus.Index, $"kv_attention: plan item {item} has rows ");
                    Refused(HeaderWords + (item * ItemWords) + word, int.MaxValue, StrataStatus.Index, $"kv_attention: plan item {item} has rows ");
                }
            }
            for (int word = 0; word < 6; word++)
            {
                Refused(merge + word, -1, StrataStatus.Index, "kv_attention: plan merge 0 has rows ");
                Refused(merge + word, int.MaxValue, StrataStatus.Index, "kv_attention: plan merge 0 has rows ");
            }
            Refused(merge + 5, (good[Partials] / good[merge + 3]) + 1, StrataStatus.Index, "kv_attention: plan merge 0 has rows "); // a part has as many rows as the tile
            Fails(() => Attending.Run(open, target with { Plan = Upload(open, good[..^1]) }), StrataStatus.Shape, $"kv_attention: plan.shape[0] is {good.Length - 1}, must be at least {good.Length}; ask strata_kv_attention_plan_words");
            Fails(() => Attending.Run(open, target with { Plan = Upload(open, good).View.Reshape(1, good.Length) }), StrataStatus.Shape, "kv_attention: plan.ndim is 2, must be 1; describe the tensor with all its dimensions");
            Assert.That(output.ToArray(), Is.All.EqualTo(9f));
            return op;

            void Refused(int word, int value, StrataStatus status, string sentence)
            {
                int[] bad = [.. good];
                bad[word] = value;
                using DeviceTensor<int> plan = Upload(open, bad);
                StrataException e = Assert.Throws<StrataException>(() => Attending.Run(open, target with { Plan = plan }), $"word {word} = {value}")!;
                Assert.That((e.Status, e.Message[..Math.Min(e.Message.Length, sentence.Length)]), Is.EqualTo((status, sentence)), $"word {word} = {value}");
            }
        });
    }

    [Test]
    public void Run_PlanOfOtherLengths_Refused()
    {
        Device open = TestDevices.Open(new TestDevice("cpu", null));
        int[] plan = [];
        Attending.Run(open, s_shape, s_batch, Heads, with: op =>
        {
            plan = OnHost(open, op);
            return op;
        });
        Sequence[] shorter = [s_batch[0] with { Length = 1499 }, .. s_batch[1..]];
        Fails(() => Attending.Run(open, s_shape, shorter, Heads, with: op => op with { Plan = Upload(open, plan) }), StrataStatus.Index, null);
    }

    /// <summary>Word of the first merge. Merges follow the room for items; the first has the rows of the first item that writes a partial result.</summary>
    private static int FirstMerge(int[] plan)
    {
        int cut = Enumerable.Range(0, plan[Items]).First(i => plan[HeaderWords + (i * ItemWords) + 7] >= 0);
        ReadOnlySpan<int> rows = plan.AsSpan(HeaderWords + (cut * ItemWords), 4);
        int at = HeaderWords + (plan[Items] * ItemWords);
        while (!plan.AsSpan(at, 4).SequenceEqual(rows)) at += ItemWords;
        return at;
    }

    private static int[] Used(int[] plan) => [.. plan[..HeaderWords], .. plan.AsSpan(HeaderWords, plan[Items] * ItemWords)];

    private static int[] OnHost(Device open, KvAttention op)
    {
        var plan = new int[op.PlanWords(open)];
        op.PlanOnHost(open, [.. s_batch.SelectMany(s => new[] { s.Length, s.Length })], [0, .. s_batch.Select((_, b) => s_batch[..(b + 1)].Sum(s => s.Tokens))], plan);
        return plan;
    }

    private static DeviceTensor<int> Upload(Device open, int[] words) => open.Upload<int>(words, words.Length);

    private static KvAttention Shapes(int tokens, int maxPages, bool invariant)
    {
        TensorView Floats(params long[] shape) => TensorView.Borrow(0, DType.F16, shape, null);
        TensorView Integers(params long[] shape) => TensorView.Borrow(0, DType.I32, shape, null);
        return new KvAttention
        {
            Cache = new KvCache { Keys = Floats(10, 1, 64, 64), Values = Floats(10, 1, 64, 64), PageTable = Integers(1, 2, maxPages), Lengths = Integers(1, 2) },
            Q = Floats(tokens, Heads, 64),
            Output = Floats(tokens, Heads, 64),
            BatchInvariant = invariant,
        };
    }

    private static void Fails(Action call, StrataStatus status, string? sentence)
    {
        StrataException e = Assert.Throws<StrataException>(call)!;
        Assert.That(e.Status, Is.EqualTo(status), e.Message);
        if (sentence is not null) Assert.That(e.Message, Is.EqualTo(sentence));
    }
}
