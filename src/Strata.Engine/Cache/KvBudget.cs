// SPDX-License-Identifier: Apache-2.0
// A limit on the tokens that the KV cache keeps.
namespace Strata.Engine.Cache;

/// <summary>A limit on the KV cache.</summary>
/// <param name="Tokens">Tokens to keep per layer and KV head, at least 1.</param>
/// <param name="Policy">Which ones.</param>
public sealed record KvBudget(int Tokens, KvPolicy Policy);
