// SPDX-License-Identifier: Apache-2.0
// `strata info`: the devices of this machine, and why those that are missing are missing.
using System.CommandLine;
using Spectre.Console;

namespace Strata.Cli.Commands;

internal static class InfoCommand
{
    public static Command Create()
    {
        var json = CommonOptions.Json();
        var command = new Command("info", "Devices, instruction sets, and why a device is missing.") { json };
        command.SetAction(parsed => Run(parsed.GetValue(json)));
        return command;
    }

    private static int Run(bool json)
    {
        IReadOnlyList<DeviceInfo> devices = Device.List();
        if (json)
        {
            WriteJson(devices);
            return 0;
        }

        Table table = new Table().Border(TableBorder.Simple).AddColumns("device", "name", "instruction set", "threads", "memory", "state");
        foreach (DeviceInfo device in devices)
        {
            table.AddRow(
                Markup.Escape(device.Id),
                Markup.Escape(device.Name),
                Markup.Escape(device.Isa),
                $"{device.Threads}",
                device.TotalBytes > 0 ? $"{device.TotalBytes / (double)(1L << 30):0.0} GiB" : "",
                Markup.Escape(device.Available ? "available" : device.Reason));
        }

        Terminal.Out.WriteLine(Device.BuildInfo);
        Terminal.Out.Write(table);
        return 0;
    }

    private static void WriteJson(IReadOnlyList<DeviceInfo> devices) => Terminal.WriteJson(writer =>
    {
        writer.WriteStartObject();
        writer.WriteString("build", Device.BuildInfo);
        writer.WriteStartArray("devices");
        foreach (DeviceInfo device in devices)
        {
            writer.WriteStartObject();
            writer.WriteString("id", device.Id);
            writer.WriteString("name", device.Name);
            writer.WriteString("isa", device.Isa);
            writer.WriteBoolean("available", device.Available);
            writer.WriteString("reason", device.Reason);
            writer.WriteNumber("threads", device.Threads);
            writer.WriteNumber("total_bytes", device.TotalBytes);
            writer.WriteEndObject();
        }

        writer.WriteEndArray();
        writer.WriteEndObject();
    });
}
