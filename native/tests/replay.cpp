// SPDX-License-Identifier: Apache-2.0
// Replays recorded op calls (src/Strata/CallRecorder.cs) on one device: replay FILE DEVICE [ISA] [tiny].
// Built with the sanitizers: every buffer is a heap block of exactly its size, so each out-of-bounds access and each race of every op is seen
// on every recorded case, with no code here that knows an op, but for plans: a device makes its own. On the device of the recording the outputs
// must be bitwise equal.
#include <strata/strata.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <dlfcn.h>
#include <map>
#include <memory>
#include <string>
#include <vector>

namespace {

constexpr int kSkipped = 77; // what ctest reads as skipped
constexpr std::uint32_t kInArguments = UINT32_MAX;
constexpr std::size_t kAlignment = 64;

using WorkspaceFunction = strata_status (*)(strata_context *, const void *, std::size_t *);
using RunFunction = strata_status (*)(strata_context *, const void *, void *, std::size_t, strata_stream);

struct FreeBlock {
    void operator()(unsigned char *block) const { std::free(block); }
};
using Block = std::unique_ptr<unsigned char, FreeBlock>;

enum class Kind : std::int32_t { kBuffer = 0, kAuxiliary = 1, kScratch = 2 };

struct Buffer {
    std::size_t bytes = 0;
    Kind kind = Kind::kBuffer;
    Block memory;
    std::vector<unsigned char> after;
};

class Reader {
public:
    explicit Reader(const char *path) : file_(std::fopen(path, "rb")) {}
    ~Reader() {
        if (file_ != nullptr) {
            std::fclose(file_);
        }
    }
    Reader(const Reader &) = delete;
    Reader &operator=(const Reader &) = delete;

    bool open() const { return file_ != nullptr; }
    bool at_end() {
        const int next = std::fgetc(file_);
        return next == EOF || std::ungetc(next, file_) == EOF;
    }
    void bytes(void *to, std::size_t count) {
        if (count > 0 && std::fread(to, 1, count, file_) != count) {
            std::fprintf(stderr, "replay: the recording ends in the middle of a call\n");
            std::exit(2);
        }
    }
    template <class T>
    T value() {
        T result;
        bytes(&result, sizeof result);
        return result;
    }
    std::string text() {
        std::string result(static_cast<std::size_t>(value<std::int32_t>()), '\0');
        bytes(result.data(), result.size());
        return result;
    }

private:
    std::FILE *file_;
};

// aligned_alloc wants a multiple of the alignment and would hide an overrun in the rest; posix_memalign does not.
Block allocate(std::size_t bytes) {
    void *memory = nullptr;
    if (posix_memalign(&memory, kAlignment, bytes) != 0) {
        std::fprintf(stderr, "replay: out of memory\n");
        std::exit(2);
    }
    return Block(static_cast<unsigned char *>(memory));
}

struct Call {
    std::string op;
    std::string name;
    bool tiny = false;
    std::vector<unsigned char> arguments;
    std::vector<Buffer> buffers;
};

Call read_call(Reader &file) {
    Call call;
    call.op = file.text();
    call.name = file.text();
    call.tiny = file.value<std::uint32_t>() != 0;
    call.arguments.resize(static_cast<std::size_t>(file.value<std::int32_t>()));
    file.bytes(call.arguments.data(), call.arguments.size());
    call.buffers.resize(static_cast<std::size_t>(file.value<std::int32_t>()));
    for (Buffer &buffer : call.buffers) {
        buffer.bytes = static_cast<std::size_t>(file.value<std::int64_t>());
        buffer.kind = static_cast<Kind>(file.value<std::int32_t>());
        buffer.memory = allocate(buffer.bytes);
        file.bytes(buffer.memory.get(), buffer.bytes);
        if (buffer.kind == Kind::kBuffer) {
            buffer.after.resize(buffer.bytes);
            file.bytes(buffer.after.data(), buffer.bytes);
        }
    }
    const auto pointers = file.value<std::int32_t>();
    for (std::int32_t i = 0; i < pointers; ++i) {
        const auto where = file.value<std::uint32_t>();
        const auto offset = file.value<std::uint32_t>();
        const auto target = file.value<std::int32_t>();
        const auto target_offset = file.value<std::int64_t>();
        unsigned char *address = call.buffers[static_cast<std::size_t>(target)].memory.get() + target_offset;
        unsigned char *block = where == kInArguments ? call.arguments.data() : call.buffers[where].memory.get();
        std::memcpy(block + offset, &address, sizeof address);
    }
    return call;
}

/// Another device's plan in place of the recorded one.
strata_status remake_plan(strata_context *context, Call &call, Block &plan) {
    strata_kv_attention_args arguments;
    if (call.op != "kv_attention" || call.arguments.size() != sizeof arguments) {
        return STRATA_OK;
    }
    std::memcpy(&arguments, call.arguments.data(), sizeof arguments);
    if (arguments.plan.data == nullptr) {
        return STRATA_OK;
    }
    strata_tensor view = arguments.plan;
    arguments.plan = strata_tensor{};
    std::int64_t words = 0;
    strata_status status = strata_kv_attention_plan_words(context, &arguments, &words);
    if (status == STRATA_OK) {
        plan = allocate(static_cast<std::size_t>(words) * sizeof(std::int32_t));
        status = strata_kv_attention_plan(context, &arguments, reinterpret_cast<std::int32_t *>(plan.get()), words, STRATA_PLAN_HOST, nullptr);
    }
    view.data = plan.get();
    view.shape[0] = words;
    arguments.plan = view;
    std::memcpy(call.arguments.data(), &arguments, sizeof arguments);
    return status;
}

bool outputs_equal(const Call &call) {
    for (const Buffer &buffer : call.buffers) {
        if (buffer.kind == Kind::kBuffer && std::memcmp(buffer.memory.get(), buffer.after.data(), buffer.bytes) != 0) {
            return false;
        }
    }
    return true;
}

} // namespace

int main(int argc, char **argv) {
    const char *path = argc > 1 ? argv[1] : "";
    const std::string device = argc > 2 ? argv[2] : "simt";
    const char *isa = argc > 3 && std::strcmp(argv[3], "tiny") != 0 ? argv[3] : nullptr;
    const bool tiny_only = argc > 3 && std::strcmp(argv[argc - 1], "tiny") == 0;
    Reader file(path);
    if (!file.open()) {
        std::fprintf(stderr, "skip: replay: no recording at %s; make one with strata verify --device simt --record FILE\n", path);
        return kSkipped;
    }
    char magic[4];
    file.bytes(magic, sizeof magic);
    if (std::memcmp(magic, "STRC", sizeof magic) != 0 || file.value<std::uint32_t>() != 1) {
        std::fprintf(stderr, "replay: %s is no recording of this version\n", path);
        return 2;
    }
    strata_context_desc desc{};
    desc.struct_size = sizeof desc;
    desc.device = device.c_str();
    desc.isa = isa;
    desc.threads = 2;
    strata_context *context = nullptr;
    const strata_status opened = strata_context_create(&desc, &context);
    if (opened != STRATA_OK) {
        std::fprintf(stderr, "skip: replay: %s\n", strata_last_error());
        return opened == STRATA_E_DEVICE ? kSkipped : 2;
    }
    int failures = 0;
    std::map<std::string, int> calls;
    while (!file.at_end()) {
        Call call = read_call(file);
        if (tiny_only && !call.tiny) {
            continue;
        }
        const std::string name = "strata_" + call.op;
        const auto workspace = reinterpret_cast<WorkspaceFunction>(dlsym(RTLD_DEFAULT, (name + "_workspace").c_str()));
        const auto run = reinterpret_cast<RunFunction>(dlsym(RTLD_DEFAULT, (name + "_run").c_str()));
        if (workspace == nullptr || run == nullptr) {
            std::fprintf(stderr, "replay: %s_workspace or _run is not exported\n", name.c_str());
            return 2;
        }
        Block plan;
        strata_status status = device == "simt" ? STRATA_OK : remake_plan(context, call, plan);
        // This device's own scratch, exactly as large as it says it needs, full of NaN.
        std::size_t scratch_bytes = 0;
        status = status == STRATA_OK ? workspace(context, call.arguments.data(), &scratch_bytes) : status;
        const Block scratch = allocate(scratch_bytes);
        std::memset(scratch.get(), 0xff, scratch_bytes);
        if (status == STRATA_OK) {
            status = run(context, call.arguments.data(), scratch_bytes > 0 ? scratch.get() : nullptr, scratch_bytes, nullptr);
        }
        status = status == STRATA_OK ? strata_stream_sync(context, nullptr) : status;
        const bool same = device != "simt" || outputs_equal(call); // another device rounds in another way
        if (status != STRATA_OK || !same) {
            ++failures;
            std::fprintf(stderr, "%s: %s\n", call.name.c_str(), status != STRATA_OK ? strata_last_error() : "outputs differ from the recording");
        }
        ++calls[call.op];
    }
    strata_context_destroy(context);
    int total = 0;
    for (const auto &[op, count] : calls) {
        std::printf("%s: %d calls\n", op.c_str(), count);
        total += count;
    }
    std::printf("replay on %s%s%s: %d calls, %d failures\n", device.c_str(), isa != nullptr ? "/" : "", isa != nullptr ? isa : "", total, failures);
    return failures == 0 && total > 0 ? 0 : 1;
}
