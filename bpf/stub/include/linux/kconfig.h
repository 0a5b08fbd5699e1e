#define CONFIG_BPF_SYSCALL 1
#define CONFIG_X86_64 1
#define __always_inline inline __attribute__((always_inline))
