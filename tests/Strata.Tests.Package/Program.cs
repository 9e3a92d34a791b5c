// SPDX-License-Identifier: Apache-2.0
// One call through the packed package: the native library is found where the package put it and gives the right numbers.

using Strata;

using Device device = Device.Open("cpu");
using DeviceTensor<float> x = device.Upload<float>([3, 4, 0, 0], 1, 4);
using DeviceTensor<float> weight = device.Upload<float>([1, 1, 1, 2], 4);
using DeviceTensor<float> y = device.Allocate<float>(1, 4);
new RmsNorm { X = x, Weight = weight, Y = y }.Run(device);

// The root mean square of (3, 4, 0, 0) is 2.5.
float[] got = y.ToArray(), want = [1.2f, 1.6f, 0, 0];
for (int i = 0; i < want.Length; i++)
{
    if (MathF.Abs(got[i] - want[i]) > 1e-5f)
    {
        Console.Error.WriteLine($"package: y[{i}] is {got[i]}, must be {want[i]}");
        return 1;
    }
}
Console.WriteLine($"{Device.LastImplementation} from {Strata.Bindings.NativeResolver.LoadedPath}");
return 0;
