// SPDX-License-Identifier: Apache-2.0
// What the user asked for cannot be done; the message says why and what would work.
namespace Strata.Cli;

internal sealed class CommandException : Exception
{
    public CommandException()
    {
    }

    public CommandException(string message)
        : base(message)
    {
    }

    public CommandException(string message, Exception innerException)
        : base(message, innerException)
    {
    }
}
