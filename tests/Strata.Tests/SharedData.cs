// SPDX-License-Identifier: Apache-2.0
// Finds the golden data and models that are too large for the repository.
using NUnit.Framework;

namespace Strata.Tests;

/// <summary>Files of the folder that STRATA_SHARED names; tests that need one are skipped without it.</summary>
internal static class SharedData
{
    /// <summary>Path of a file below the folder; ends the test as ignored where it is not there.</summary>
    public static string Require(string relativePath)
    {
        string? root = Environment.GetEnvironmentVariable("STRATA_SHARED");
        if (string.IsNullOrEmpty(root))
        {
            Assert.Ignore($"STRATA_SHARED is not set, so {relativePath} is not compared; set it to the folder with golden/, models/ and data/");
        }

        string path = Path.Combine(root!, relativePath);
        if (!File.Exists(path))
        {
            Assert.Ignore($"{relativePath} is not in the folder that STRATA_SHARED names, so it is not compared; point STRATA_SHARED at complete data");
        }

        return path;
    }
}
