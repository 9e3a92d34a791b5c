// SPDX-License-Identifier: Apache-2.0
// Generated from native/include/strata/strata.h by ./build.sh gen. Do not edit.
#nullable enable

using NUnit.Framework;
using Strata.Bindings;

namespace Strata.Tests.Layout;

/// <summary>Every struct has the size, and every field the offset, that the C compiler gave it.</summary>
[TestFixture]
public unsafe class LayoutTests
{
    private static int Offset<T>(in T start, void* field) where T : unmanaged
    {
        fixed (T* p = &start) return (int)((byte*)field - (byte*)p);
    }

    [Test]
    public void strata_tensor_HasLayoutOfHeader()
    {
        strata_tensor value = default;
        Assert.That(sizeof(strata_tensor), Is.EqualTo(80), "size");
        Assert.That(Offset(value, &value.data), Is.EqualTo(0), "data");
        Assert.That(Offset(value, &value.dtype), Is.EqualTo(8), "dtype");
        Assert.That(Offset(value, &value.ndim), Is.EqualTo(12), "ndim");
        Assert.That(Offset(value, &value.shape), Is.EqualTo(16), "shape");
        Assert.That(Offset(value, &value.stride), Is.EqualTo(48), "stride");
    }

    [Test]
    public void strata_device_info_HasLayoutOfHeader()
    {
        strata_device_info value = default;
        Assert.That(sizeof(strata_device_info), Is.EqualTo(680), "size");
        Assert.That(Offset(value, &value.struct_size), Is.EqualTo(0), "struct_size");
        Assert.That(Offset(value, &value.available), Is.EqualTo(4), "available");
        Assert.That(Offset(value, &value.total_bytes), Is.EqualTo(8), "total_bytes");
        Assert.That(Offset(value, &value.threads), Is.EqualTo(16), "threads");
        Assert.That(Offset(value, &value.reserved), Is.EqualTo(20), "reserved");
        Assert.That(Offset(value, &value.id), Is.EqualTo(24), "id");
        Assert.That(Offset(value, &value.name), Is.EqualTo(40), "name");
        Assert.That(Offset(value, &value.isa), Is.EqualTo(168), "isa");
        Assert.That(Offset(value, &value.reason), Is.EqualTo(296), "reason");
    }

    [Test]
    public void strata_context_desc_HasLayoutOfHeader()
    {
        strata_context_desc value = default;
        Assert.That(sizeof(strata_context_desc), Is.EqualTo(24), "size");
        Assert.That(Offset(value, &value.struct_size), Is.EqualTo(0), "struct_size");
        Assert.That(Offset(value, &value.threads), Is.EqualTo(4), "threads");
        Assert.That(Offset(value, &value.device), Is.EqualTo(8), "device");
        Assert.That(Offset(value, &value.isa), Is.EqualTo(16), "isa");
    }

    [Test]
    public void strata_weight_HasLayoutOfHeader()
    {
        strata_weight value = default;
        Assert.That(sizeof(strata_weight), Is.EqualTo(48), "size");
        Assert.That(Offset(value, &value.data), Is.EqualTo(0), "data");
        Assert.That(Offset(value, &value.bytes), Is.EqualTo(8), "bytes");
        Assert.That(Offset(value, &value.n), Is.EqualTo(16), "n");
        Assert.That(Offset(value, &value.k), Is.EqualTo(24), "k");
        Assert.That(Offset(value, &value.format), Is.EqualTo(32), "format");
        Assert.That(Offset(value, &value.group), Is.EqualTo(36), "group");
        Assert.That(Offset(value, &value.layout), Is.EqualTo(40), "layout");
        Assert.That(Offset(value, &value.reserved), Is.EqualTo(44), "reserved");
    }

    [Test]
    public void strata_weight_source_HasLayoutOfHeader()
    {
        strata_weight_source value = default;
        Assert.That(sizeof(strata_weight_source), Is.EqualTo(64), "size");
        Assert.That(Offset(value, &value.struct_size), Is.EqualTo(0), "struct_size");
        Assert.That(Offset(value, &value.format), Is.EqualTo(4), "format");
        Assert.That(Offset(value, &value.n), Is.EqualTo(8), "n");
        Assert.That(Offset(value, &value.k), Is.EqualTo(16), "k");
        Assert.That(Offset(value, &value.data), Is.EqualTo(24), "data");
        Assert.That(Offset(value, &value.data_bytes), Is.EqualTo(32), "data_bytes");
        Assert.That(Offset(value, &value.scales), Is.EqualTo(40), "scales");
        Assert.That(Offset(value, &value.scales_bytes), Is.EqualTo(48), "scales_bytes");
        Assert.That(Offset(value, &value.group), Is.EqualTo(56), "group");
        Assert.That(Offset(value, &value.reserved), Is.EqualTo(60), "reserved");
    }

    [Test]
    public void strata_kv_cache_HasLayoutOfHeader()
    {
        strata_kv_cache value = default;
        Assert.That(sizeof(strata_kv_cache), Is.EqualTo(976), "size");
        Assert.That(Offset(value, &value.keys), Is.EqualTo(0), "keys");
        Assert.That(Offset(value, &value.values), Is.EqualTo(80), "values");
        Assert.That(Offset(value, &value.page_table), Is.EqualTo(160), "page_table");
        Assert.That(Offset(value, &value.lengths), Is.EqualTo(240), "lengths");
        Assert.That(Offset(value, &value.positions), Is.EqualTo(320), "positions");
        Assert.That(Offset(value, &value.logit_bias), Is.EqualTo(400), "logit_bias");
        Assert.That(Offset(value, &value.key_norms), Is.EqualTo(480), "key_norms");
        Assert.That(Offset(value, &value.value_norms), Is.EqualTo(560), "value_norms");
        Assert.That(Offset(value, &value.key_scales), Is.EqualTo(640), "key_scales");
        Assert.That(Offset(value, &value.value_scales), Is.EqualTo(720), "value_scales");
        Assert.That(Offset(value, &value.key_tail), Is.EqualTo(800), "key_tail");
        Assert.That(Offset(value, &value.tail_table), Is.EqualTo(880), "tail_table");
        Assert.That(Offset(value, &value.key_format), Is.EqualTo(960), "key_format");
        Assert.That(Offset(value, &value.value_format), Is.EqualTo(964), "value_format");
        Assert.That(Offset(value, &value.layout), Is.EqualTo(968), "layout");
        Assert.That(Offset(value, &value.rotation), Is.EqualTo(972), "rotation");
    }

    [Test]
    public void strata_rope_params_HasLayoutOfHeader()
    {
        strata_rope_params value = default;
        Assert.That(sizeof(strata_rope_params), Is.EqualTo(32), "size");
        Assert.That(Offset(value, &value.mode), Is.EqualTo(0), "mode");
        Assert.That(Offset(value, &value.dims), Is.EqualTo(4), "dims");
        Assert.That(Offset(value, &value.@base), Is.EqualTo(8), "base");
        Assert.That(Offset(value, &value.frequency_scale), Is.EqualTo(12), "frequency_scale");
        Assert.That(Offset(value, &value.yarn_context), Is.EqualTo(16), "yarn_context");
        Assert.That(Offset(value, &value.yarn_beta_fast), Is.EqualTo(20), "yarn_beta_fast");
        Assert.That(Offset(value, &value.yarn_beta_slow), Is.EqualTo(24), "yarn_beta_slow");
        Assert.That(Offset(value, &value.magnitude), Is.EqualTo(28), "magnitude");
    }

    [Test]
    public void strata_kv_append_args_HasLayoutOfHeader()
    {
        strata_kv_append_args value = default;
        Assert.That(sizeof(strata_kv_append_args), Is.EqualTo(1416), "size");
        Assert.That(Offset(value, &value.struct_size), Is.EqualTo(0), "struct_size");
        Assert.That(Offset(value, &value.flags), Is.EqualTo(4), "flags");
        Assert.That(Offset(value, &value.cache), Is.EqualTo(8), "cache");
        Assert.That(Offset(value, &value.keys), Is.EqualTo(984), "keys");
        Assert.That(Offset(value, &value.values), Is.EqualTo(1064), "values");
        Assert.That(Offset(value, &value.positions), Is.EqualTo(1144), "positions");
        Assert.That(Offset(value, &value.row_offsets), Is.EqualTo(1224), "row_offsets");
        Assert.That(Offset(value, &value.rope), Is.EqualTo(1304), "rope");
        Assert.That(Offset(value, &value.frequency_factors), Is.EqualTo(1336), "frequency_factors");
    }

    [Test]
    public void strata_kv_attention_args_HasLayoutOfHeader()
    {
        strata_kv_attention_args value = default;
        Assert.That(sizeof(strata_kv_attention_args), Is.EqualTo(1728), "size");
        Assert.That(Offset(value, &value.struct_size), Is.EqualTo(0), "struct_size");
        Assert.That(Offset(value, &value.flags), Is.EqualTo(4), "flags");
        Assert.That(Offset(value, &value.cache), Is.EqualTo(8), "cache");
        Assert.That(Offset(value, &value.q), Is.EqualTo(984), "q");
        Assert.That(Offset(value, &value.@out), Is.EqualTo(1064), "out");
        Assert.That(Offset(value, &value.lse), Is.EqualTo(1144), "lse");
        Assert.That(Offset(value, &value.row_offsets), Is.EqualTo(1224), "row_offsets");
        Assert.That(Offset(value, &value.scale), Is.EqualTo(1304), "scale");
        Assert.That(Offset(value, &value.max_length), Is.EqualTo(1308), "max_length");
        Assert.That(Offset(value, &value.past_lse), Is.EqualTo(1312), "past_lse");
        Assert.That(Offset(value, &value.key_probability), Is.EqualTo(1392), "key_probability");
        Assert.That(Offset(value, &value.alibi_slopes), Is.EqualTo(1472), "alibi_slopes");
        Assert.That(Offset(value, &value.sink_logits), Is.EqualTo(1552), "sink_logits");
        Assert.That(Offset(value, &value.plan), Is.EqualTo(1632), "plan");
        Assert.That(Offset(value, &value.softcap), Is.EqualTo(1712), "softcap");
        Assert.That(Offset(value, &value.window), Is.EqualTo(1716), "window");
        Assert.That(Offset(value, &value.window_sinks), Is.EqualTo(1720), "window_sinks");
        Assert.That(Offset(value, &value.reserved), Is.EqualTo(1724), "reserved");
    }

    [Test]
    public void strata_merge_states_args_HasLayoutOfHeader()
    {
        strata_merge_states_args value = default;
        Assert.That(sizeof(strata_merge_states_args), Is.EqualTo(328), "size");
        Assert.That(Offset(value, &value.struct_size), Is.EqualTo(0), "struct_size");
        Assert.That(Offset(value, &value.flags), Is.EqualTo(4), "flags");
        Assert.That(Offset(value, &value.parts), Is.EqualTo(8), "parts");
        Assert.That(Offset(value, &value.part_lse), Is.EqualTo(88), "part_lse");
        Assert.That(Offset(value, &value.@out), Is.EqualTo(168), "out");
        Assert.That(Offset(value, &value.lse), Is.EqualTo(248), "lse");
    }

    [Test]
    public void strata_kv_score_args_HasLayoutOfHeader()
    {
        strata_kv_score_args value = default;
        Assert.That(sizeof(strata_kv_score_args), Is.EqualTo(1264), "size");
        Assert.That(Offset(value, &value.struct_size), Is.EqualTo(0), "struct_size");
        Assert.That(Offset(value, &value.flags), Is.EqualTo(4), "flags");
        Assert.That(Offset(value, &value.cache), Is.EqualTo(8), "cache");
        Assert.That(Offset(value, &value.q), Is.EqualTo(984), "q");
        Assert.That(Offset(value, &value.lse), Is.EqualTo(1064), "lse");
        Assert.That(Offset(value, &value.scores), Is.EqualTo(1144), "scores");
        Assert.That(Offset(value, &value.statistic), Is.EqualTo(1224), "statistic");
        Assert.That(Offset(value, &value.pool), Is.EqualTo(1228), "pool");
        Assert.That(Offset(value, &value.pool_width), Is.EqualTo(1232), "pool_width");
        Assert.That(Offset(value, &value.heads), Is.EqualTo(1236), "heads");
        Assert.That(Offset(value, &value.reduce_first), Is.EqualTo(1240), "reduce_first");
        Assert.That(Offset(value, &value.exclude_last), Is.EqualTo(1244), "exclude_last");
        Assert.That(Offset(value, &value.gamma), Is.EqualTo(1248), "gamma");
        Assert.That(Offset(value, &value.scale), Is.EqualTo(1252), "scale");
        Assert.That(Offset(value, &value.max_length), Is.EqualTo(1256), "max_length");
        Assert.That(Offset(value, &value.reserved), Is.EqualTo(1260), "reserved");
    }

    [Test]
    public void strata_kv_select_args_HasLayoutOfHeader()
    {
        strata_kv_select_args value = default;
        Assert.That(sizeof(strata_kv_select_args), Is.EqualTo(424), "size");
        Assert.That(Offset(value, &value.struct_size), Is.EqualTo(0), "struct_size");
        Assert.That(Offset(value, &value.flags), Is.EqualTo(4), "flags");
        Assert.That(Offset(value, &value.scores), Is.EqualTo(8), "scores");
        Assert.That(Offset(value, &value.lengths), Is.EqualTo(88), "lengths");
        Assert.That(Offset(value, &value.budgets), Is.EqualTo(168), "budgets");
        Assert.That(Offset(value, &value.kept), Is.EqualTo(248), "kept");
        Assert.That(Offset(value, &value.kept_counts), Is.EqualTo(328), "kept_counts");
        Assert.That(Offset(value, &value.budget), Is.EqualTo(408), "budget");
        Assert.That(Offset(value, &value.protect_first), Is.EqualTo(412), "protect_first");
        Assert.That(Offset(value, &value.protect_last), Is.EqualTo(416), "protect_last");
        Assert.That(Offset(value, &value.max_length), Is.EqualTo(420), "max_length");
    }

    [Test]
    public void strata_kv_compact_args_HasLayoutOfHeader()
    {
        strata_kv_compact_args value = default;
        Assert.That(sizeof(strata_kv_compact_args), Is.EqualTo(1304), "size");
        Assert.That(Offset(value, &value.struct_size), Is.EqualTo(0), "struct_size");
        Assert.That(Offset(value, &value.flags), Is.EqualTo(4), "flags");
        Assert.That(Offset(value, &value.cache), Is.EqualTo(8), "cache");
        Assert.That(Offset(value, &value.kept), Is.EqualTo(984), "kept");
        Assert.That(Offset(value, &value.kept_counts), Is.EqualTo(1064), "kept_counts");
        Assert.That(Offset(value, &value.to_page_table), Is.EqualTo(1144), "to_page_table");
        Assert.That(Offset(value, &value.new_lengths), Is.EqualTo(1224), "new_lengths");
    }

    [Test]
    public void strata_qgemm_args_HasLayoutOfHeader()
    {
        strata_qgemm_args value = default;
        Assert.That(sizeof(strata_qgemm_args), Is.EqualTo(216), "size");
        Assert.That(Offset(value, &value.struct_size), Is.EqualTo(0), "struct_size");
        Assert.That(Offset(value, &value.flags), Is.EqualTo(4), "flags");
        Assert.That(Offset(value, &value.x), Is.EqualTo(8), "x");
        Assert.That(Offset(value, &value.y), Is.EqualTo(88), "y");
        Assert.That(Offset(value, &value.w), Is.EqualTo(168), "w");
    }

    [Test]
    public void strata_bitstack_source_HasLayoutOfHeader()
    {
        strata_bitstack_source value = default;
        Assert.That(sizeof(strata_bitstack_source), Is.EqualTo(72), "size");
        Assert.That(Offset(value, &value.struct_size), Is.EqualTo(0), "struct_size");
        Assert.That(Offset(value, &value.rank), Is.EqualTo(4), "rank");
        Assert.That(Offset(value, &value.n), Is.EqualTo(8), "n");
        Assert.That(Offset(value, &value.k), Is.EqualTo(16), "k");
        Assert.That(Offset(value, &value.signs), Is.EqualTo(24), "signs");
        Assert.That(Offset(value, &value.signs_bytes), Is.EqualTo(32), "signs_bytes");
        Assert.That(Offset(value, &value.u), Is.EqualTo(40), "u");
        Assert.That(Offset(value, &value.u_bytes), Is.EqualTo(48), "u_bytes");
        Assert.That(Offset(value, &value.vt), Is.EqualTo(56), "vt");
        Assert.That(Offset(value, &value.vt_bytes), Is.EqualTo(64), "vt_bytes");
    }

    [Test]
    public void strata_bitstack_level_HasLayoutOfHeader()
    {
        strata_bitstack_level value = default;
        Assert.That(sizeof(strata_bitstack_level), Is.EqualTo(40), "size");
        Assert.That(Offset(value, &value.data), Is.EqualTo(0), "data");
        Assert.That(Offset(value, &value.bytes), Is.EqualTo(8), "bytes");
        Assert.That(Offset(value, &value.n), Is.EqualTo(16), "n");
        Assert.That(Offset(value, &value.k), Is.EqualTo(24), "k");
        Assert.That(Offset(value, &value.rank), Is.EqualTo(32), "rank");
        Assert.That(Offset(value, &value.layout), Is.EqualTo(36), "layout");
    }

    [Test]
    public void strata_bitstack_args_HasLayoutOfHeader()
    {
        strata_bitstack_args value = default;
        Assert.That(sizeof(strata_bitstack_args), Is.EqualTo(184), "size");
        Assert.That(Offset(value, &value.struct_size), Is.EqualTo(0), "struct_size");
        Assert.That(Offset(value, &value.flags), Is.EqualTo(4), "flags");
        Assert.That(Offset(value, &value.levels), Is.EqualTo(8), "levels");
        Assert.That(Offset(value, &value.level_count), Is.EqualTo(16), "level_count");
        Assert.That(Offset(value, &value.reserved), Is.EqualTo(20), "reserved");
        Assert.That(Offset(value, &value.x), Is.EqualTo(24), "x");
        Assert.That(Offset(value, &value.y), Is.EqualTo(104), "y");
    }

    [Test]
    public void strata_rms_norm_args_HasLayoutOfHeader()
    {
        strata_rms_norm_args value = default;
        Assert.That(sizeof(strata_rms_norm_args), Is.EqualTo(256), "size");
        Assert.That(Offset(value, &value.struct_size), Is.EqualTo(0), "struct_size");
        Assert.That(Offset(value, &value.flags), Is.EqualTo(4), "flags");
        Assert.That(Offset(value, &value.x), Is.EqualTo(8), "x");
        Assert.That(Offset(value, &value.weight), Is.EqualTo(88), "weight");
        Assert.That(Offset(value, &value.y), Is.EqualTo(168), "y");
        Assert.That(Offset(value, &value.epsilon), Is.EqualTo(248), "epsilon");
        Assert.That(Offset(value, &value.reserved), Is.EqualTo(252), "reserved");
    }

    [Test]
    public void strata_rope_args_HasLayoutOfHeader()
    {
        strata_rope_args value = default;
        Assert.That(sizeof(strata_rope_args), Is.EqualTo(360), "size");
        Assert.That(Offset(value, &value.struct_size), Is.EqualTo(0), "struct_size");
        Assert.That(Offset(value, &value.flags), Is.EqualTo(4), "flags");
        Assert.That(Offset(value, &value.x), Is.EqualTo(8), "x");
        Assert.That(Offset(value, &value.positions), Is.EqualTo(88), "positions");
        Assert.That(Offset(value, &value.y), Is.EqualTo(168), "y");
        Assert.That(Offset(value, &value.rope), Is.EqualTo(248), "rope");
        Assert.That(Offset(value, &value.frequency_factors), Is.EqualTo(280), "frequency_factors");
    }

    [Test]
    public void strata_elementwise_args_HasLayoutOfHeader()
    {
        strata_elementwise_args value = default;
        Assert.That(sizeof(strata_elementwise_args), Is.EqualTo(256), "size");
        Assert.That(Offset(value, &value.struct_size), Is.EqualTo(0), "struct_size");
        Assert.That(Offset(value, &value.flags), Is.EqualTo(4), "flags");
        Assert.That(Offset(value, &value.a), Is.EqualTo(8), "a");
        Assert.That(Offset(value, &value.b), Is.EqualTo(88), "b");
        Assert.That(Offset(value, &value.y), Is.EqualTo(168), "y");
        Assert.That(Offset(value, &value.function), Is.EqualTo(248), "function");
        Assert.That(Offset(value, &value.reserved), Is.EqualTo(252), "reserved");
    }

    [Test]
    public void strata_embed_args_HasLayoutOfHeader()
    {
        strata_embed_args value = default;
        Assert.That(sizeof(strata_embed_args), Is.EqualTo(216), "size");
        Assert.That(Offset(value, &value.struct_size), Is.EqualTo(0), "struct_size");
        Assert.That(Offset(value, &value.flags), Is.EqualTo(4), "flags");
        Assert.That(Offset(value, &value.ids), Is.EqualTo(8), "ids");
        Assert.That(Offset(value, &value.y), Is.EqualTo(88), "y");
        Assert.That(Offset(value, &value.w), Is.EqualTo(168), "w");
    }
}
