// SPDX-License-Identifier: Apache-2.0
// Byte-pair merging in n log n, for pieces so long that the general tokenizer's quadratic time would show.
namespace Strata.Engine.Tokenization;

internal sealed class PairMerger
{
    private readonly Dictionary<(int Left, int Right), (int Rank, int Merged)> _merges = [];

    public void Add(int left, int right, int rank, int merged) => _merges.TryAdd((left, right), (rank, merged));

    // Merges the pair of lowest rank, the leftmost on a tie, until none is left.
    public void Merge(ReadOnlySpan<int> symbols, List<int> ids)
    {
        var links = new Link[symbols.Length];
        for (int i = 0; i < links.Length; i++)
        {
            links[i] = new Link { Id = symbols[i], Previous = i - 1, Next = i + 1 };
        }

        var queue = new PriorityQueue<Pair, (int Rank, int Position)>();
        for (int i = 0; i + 1 < links.Length; i++)
        {
            Offer(links, i, queue);
        }

        while (queue.TryDequeue(out Pair pair, out _))
        {
            ref Link left = ref links[pair.Position];
            int nextPosition = left.Next;

            // A pair that an earlier merge has changed is out of date.
            if (left.Id != pair.Left || nextPosition == links.Length || links[nextPosition].Id != pair.Right)
            {
                continue;
            }

            left.Id = pair.Merged;
            links[nextPosition].Id = Link.Gone;
            left.Next = links[nextPosition].Next;
            if (left.Next < links.Length)
            {
                links[left.Next].Previous = pair.Position;
                Offer(links, pair.Position, queue);
            }

            if (left.Previous >= 0)
            {
                Offer(links, left.Previous, queue);
            }
        }

        for (int i = 0; i < links.Length; i = links[i].Next)
        {
            ids.Add(links[i].Id);
        }
    }

    private void Offer(Link[] links, int position, PriorityQueue<Pair, (int Rank, int Position)> queue)
    {
        int left = links[position].Id;
        int right = links[links[position].Next].Id;
        if (_merges.TryGetValue((left, right), out (int Rank, int Merged) merge))
        {
            queue.Enqueue(new Pair(position, left, right, merge.Merged), (merge.Rank, position));
        }
    }

    private struct Link
    {
        public const int Gone = -1;
        public int Id;
        public int Previous;
        public int Next;
    }

    private readonly record struct Pair(int Position, int Left, int Right, int Merged);
}
