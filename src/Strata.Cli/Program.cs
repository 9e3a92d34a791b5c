// SPDX-License-Identifier: Apache-2.0
// Entry point of the `strata` tool.
return Strata.Cli.CommandLine.Run(args);
