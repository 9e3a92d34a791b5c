// SPDX-License-Identifier: Apache-2.0
// The native library is found, and one of another ABI is refused with both versions named.

using NUnit.Framework;
using Strata.Bindings;

namespace Strata.Tests.Interop;

[TestFixture]
public class NativeResolverTests
{
    [TestCase(0x00010000u, 0x00010000u)]
    [TestCase(0x00010005u, 0x00010002u)]
    public void Disagreement_SameMajorMinorNotOlder_IsNone(uint library, uint bindings) =>
        Assert.That(NativeResolver.Disagreement(library, bindings), Is.Null);

    [TestCase(0x00020000u, 0x00010000u, "2.0", "1.0")]
    [TestCase(0x00010001u, 0x00010003u, "1.1", "1.3")]
    [TestCase(0x00000009u, 0x00010000u, "0.9", "1.0")]
    public void Disagreement_OtherMajorOrOlderMinor_NamesBoth(uint library, uint bindings, string has, string need) =>
        Assert.That(NativeResolver.Disagreement(library, bindings), Does.Contain($"has ABI {has}").And.Contain($"need {need}"));

    [Test]
    public void EnsureLoaded_LoadsLibraryOfThisAbi()
    {
        NativeResolver.EnsureLoaded();
        Assert.Multiple(() =>
        {
            Assert.That(File.Exists(NativeResolver.LoadedPath), Is.True, NativeResolver.LoadedPath);
            Assert.That(NativeResolver.Probes[^1].Outcome, Is.EqualTo("loaded"));
            Assert.That(Native.strata_abi_version(), Is.EqualTo(Native.STRATA_ABI_VERSION));
        });
    }
}
