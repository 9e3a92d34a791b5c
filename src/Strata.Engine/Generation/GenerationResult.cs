// SPDX-License-Identifier: Apache-2.0
// What a generation came to.
namespace Strata.Engine.Generation;

/// <summary>Drawn tokens and what they took.</summary>
/// <param name="Ids">The tokens.</param>
/// <param name="Margins">Best minus second-best logit of each; null where the tokens were drawn at random.</param>
/// <param name="SecondsPrefill">Time for the prompt and the first cut of the cache.</param>
/// <param name="SecondsDecode">Time for the drawn tokens; the first comes from the prompt's pass.</param>
public sealed record GenerationResult(IReadOnlyList<int> Ids, IReadOnlyList<float>? Margins, double SecondsPrefill, double SecondsDecode);
