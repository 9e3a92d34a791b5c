// SPDX-License-Identifier: Apache-2.0
// Opens the back ends that are libraries of their own. The library writes the reason, not the operating system's loader.
#include "core/backend.h"

#include <cstring>
#include <dlfcn.h>

namespace strata {

namespace {

// Back ends lie beside this library: no search path that somebody else controls.
bool own_directory(Text &path) {
    Dl_info info;
    if (dladdr(reinterpret_cast<const void *>(&backend_slots), &info) == 0 || info.dli_fname == nullptr) {
        return false;
    }
    const char *slash = std::strrchr(info.dli_fname, '/');
    if (slash == nullptr) {
        return false;
    }
    char directory[Text::kCapacity];
    const auto length = static_cast<std::size_t>(slash - info.dli_fname) + 1;
    if (length >= sizeof directory) {
        return false;
    }
    std::memcpy(directory, info.dli_fname, length);
    directory[length] = '\0';
    path << directory;
    return true;
}

void set_reason(BackendSlot *slot, const Text &text) { copy_text(slot->reason, text.c_str()); }

void load(BackendSlot *slot, const char *file) {
    Text path;
    Text reason;
    if (!own_directory(path)) {
        reason << slot->kind << ": the folder of this library is not known, must be to find " << file << "; load libstrata.so by its full path";
        set_reason(slot, reason);
        return;
    }
    path << file;
    void *library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr) {
        const char *why = dlerror();
        reason << slot->kind << ": " << file << " could not be loaded (" << (why != nullptr ? why : "no reason given")
               << "), must lie beside libstrata.so; install it there";
        set_reason(slot, reason);
        return;
    }
    const auto entry = reinterpret_cast<BackendEntry>(dlsym(library, kBackendEntryName));
    const Backend *backend = entry != nullptr ? entry() : nullptr;
    if (backend == nullptr || backend->interface_version != kBackendInterface) {
        reason << slot->kind << ": " << file << " has interface " << (backend != nullptr ? backend->interface_version : 0) << ", must have "
               << kBackendInterface << "; install both libraries from one version";
        set_reason(slot, reason);
        dlclose(library);
        return;
    }
    slot->backend = backend; // stays loaded: contexts and a CUDA runtime do not survive unloading
}

struct Slots {
    BackendSlot slots[kBackendSlots] = {{"cpu", nullptr, ""}, {"simt", nullptr, ""}, {"cuda", nullptr, ""}};
    Slots() {
        slots[0].backend = &cpu_backend();
        load(&slots[1], "libstrata_simt.so");
        load(&slots[2], "libstrata_cuda.so");
    }
};

} // namespace

const BackendSlot *backend_slots() {
    static const Slots once;
    return once.slots;
}

} // namespace strata
