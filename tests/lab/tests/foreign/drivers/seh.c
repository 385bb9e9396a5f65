/* A driver with structured exception handling. Each I/O control code runs one case with
 * the number in its buffer, and returns what the case found. */

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef u64 ptr;

#define IMPORT __declspec(dllimport)
IMPORT int IoCreateDevice(ptr, u32, ptr, u32, u32, u8, ptr *);
IMPORT void IoDeleteDevice(ptr);
IMPORT void IofCompleteRequest(ptr, signed char);
IMPORT void ProbeForRead(ptr, u64, u32);
IMPORT void ProbeForWrite(ptr, u64, u32);
IMPORT void ExRaiseStatus(int);
IMPORT void RtlRaiseStatus(int);
IMPORT ptr ExAllocatePool2(u64, u64, u32);
IMPORT void ExFreePoolWithTag(ptr, u32);
IMPORT ptr IoAllocateMdl(ptr, u32, u8, u8, ptr);
IMPORT void IoFreeMdl(ptr);
IMPORT void MmProbeAndLockPages(ptr, signed char, int);
IMPORT void MmUnlockPages(ptr);
IMPORT u8 KfRaiseIrql(u8);
IMPORT void KeLowerIrql(u8);
IMPORT u64 RtlCompareMemory(ptr, ptr, u64);
IMPORT void RtlCopyUnicodeString(ptr, ptr);

typedef struct {
  u32 code, flags;
  ptr record, address;
  u32 count;
  u64 information[15];
} Record;

typedef struct {
  Record *record;
  u64 *context;
} Pointers;

unsigned long _exception_code(void);
void *_exception_info(void);
int _abnormal_termination(void);

#define TAG 0x54736568
#define NOINLINE __attribute__((noinline))

int _fltused;
static ptr device;
static volatile u64 steps;

static void step(u64 number) { steps = steps * 16 + number; }

NOINLINE static u64 peek(ptr address) { return *(volatile u64 *)address; }
NOINLINE static void poke(ptr address, u64 value) { *(volatile u64 *)address = value; }

/* The code of the exception that reading raises; 0 if it raises none. */
NOINLINE static u64 code_of_read(ptr address) {
  __try {
    peek(address);
  } __except (1) {
    return _exception_code();
  }
  return 0;
}

/* The access is in the function itself, not in one that it calls. */
NOINLINE static u64 inline_read(ptr address) {
  u64 value = 1;
  __try {
    value = *(volatile u64 *)address;
  } __except (1) {
    value = 0xBAD;
  }
  return value;
}

static int note(Pointers *pointers, u64 *found) {
  found[0] = pointers->record->code;
  found[1] = pointers->record->information[0] << 56 | pointers->record->information[1];
  return 1;
}

/* Kind and address of a write, as its filter sees them. */
NOINLINE static u64 write_information(ptr address) {
  u64 found[2] = {0, 0};
  __try {
    poke(address, 1);
  } __except (note(_exception_info(), found)) {
    return found[0] == 0xC0000005 ? found[1] : 0;
  }
  return 0;
}

static int decline(u64 number) {
  step(number);
  return 0;
}

static int accept(u64 number) {
  step(number);
  return 1;
}

NOINLINE static void inner(ptr address) {
  __try {
    __try {
      peek(address);
      /* Without it, clang's scopes overlap at the return address, and the filter is asked
       * twice. */
      __asm__ volatile("nop");
    } __finally {
      step(_abnormal_termination() ? 3 : 0xF);
    }
  } __except (decline(1)) {
    step(0xE);
  }
}

/* Two functions and four scopes: filters run first, then the blocks from inside out. */
NOINLINE static u64 order(ptr address) {
  steps = 0;
  __try {
    __try {
      inner(address);
      step(0xD);
    } __finally {
      step(4);
    }
  } __except (accept(2)) {
    step(5);
  }
  __try {
    step(6);
  } __finally {
    step(_abnormal_termination() ? 0xF : 7);
  }
  return steps;
}

/* Values that live in preserved registers across the handler. */
NOINLINE static u64 preserved(ptr address) {
  volatile u64 seed = address;
  u64 a = seed + 1, b = seed + 2, c = seed + 3, d = seed + 4, e = seed + 5, f = seed + 6;
  double x = (double)(seed & 0xFF), y = x + 1, z = y * 2;
  for (int round = 0; round < 3; round++) {
    __try {
      inner(address);
    } __except (1) {
      a += round;
    }
    b += a;
    z += x * y;
  }
  return a + b + c + d + e + f + (u64)z;
}

static u64 good = 0x600D;

/* Puts another address into every register that has the bad one. */
static int repair(Pointers *pointers, ptr bad) {
  for (int at = 0x78 / 8; at < 0xF8 / 8; at++)
    if (pointers->context[at] == bad) pointers->context[at] = (ptr)&good;
  return -1;
}

NOINLINE static u64 continued(ptr address) {
  u64 value = 0;
  __try {
    __asm__ volatile("mov %1, %%rcx\n mov (%%rcx), %0" : "=r"(value) : "r"(address) : "rcx");
  } __except (repair(_exception_info(), address)) {
    return 0xBAD;
  }
  return value;
}

NOINLINE static u64 raise(int status) {
  __try {
    if (status & 1)
      ExRaiseStatus(status);
    else
      RtlRaiseStatus(status);
  } __except (1) {
    return _exception_code();
  }
  return 0;
}

NOINLINE static u64 probe(ptr address, u64 length, u32 alignment, int write) {
  __try {
    if (write)
      ProbeForWrite(address, length, alignment);
    else
      ProbeForRead(address, length, alignment);
  } __except (1) {
    return _exception_code();
  }
  return 0;
}

/* A block raises an exception of its own, which it handles. */
NOINLINE static u64 nested(ptr address) {
  steps = 0;
  __try {
    __try {
      peek(address);
    } __finally {
      __try {
        peek(address);
      } __except (accept(1)) {
        step(2);
      }
    }
  } __except (1) {
    step(3);
  }
  return steps;
}

static int asks_again(ptr address) {
  step(code_of_read(address) == 0xC0000005 ? 1 : 0xF);
  return 1;
}

/* A filter that handles an exception of its own. */
NOINLINE static u64 in_filter(ptr address) {
  steps = 0;
  __try {
    peek(address);
  } __except (asks_again(address)) {
    step(2);
  }
  return steps;
}

/* An export that reads memory of the driver's choice. */
NOINLINE static u64 in_export(ptr address) {
  u64 here = 0;
  __try {
    return RtlCompareMemory(address, (ptr)&here, 8);
  } __except (1) {
    return _exception_code();
  }
}

NOINLINE static u64 string(ptr address) {
  u64 to[2] = {0x10 << 16, (ptr)&steps};
  __try {
    RtlCopyUnicodeString((ptr)to, address);
  } __except (1) {
    return _exception_code();
  }
  return 0;
}

NOINLINE static u64 lock(ptr address, int unlock) {
  ptr mdl = IoAllocateMdl(address, 8, 0, 0, 0);
  u64 code = 0;
  __try {
    MmProbeAndLockPages(mdl, 1, 1);
    if (unlock) MmUnlockPages(mdl);
  } __except (1) {
    code = _exception_code();
  }
  if (unlock) IoFreeMdl(mdl);
  return code;
}

NOINLINE static u64 allocation(void) {
  __try {
    /* POOL_FLAG_NON_PAGED, POOL_FLAG_RAISE_ON_FAILURE; far more than the pool has. */
    ExAllocatePool2(0x60, 1ull << 46, TAG);
  } __except (1) {
    return _exception_code();
  }
  return 0;
}

NOINLINE static u64 divide(u32 by) {
  volatile u32 divisor = by, result = 0;
  __try {
    result = 100 / divisor;
  } __except (1) {
    return _exception_code();
  }
  return result;
}

/* Freed pool is the kernel's: no handler is asked. */
NOINLINE static u64 freed(void) {
  ptr block = ExAllocatePool2(0x40, 64, TAG);
  ExFreePoolWithTag(block, TAG);
  return code_of_read(block);
}

NOINLINE static u64 raised_irql(ptr address) {
  u8 old = KfRaiseIrql(2);
  u64 code = code_of_read(address);
  KeLowerIrql(old);
  return code;
}

NOINLINE static void falls_through(ptr address) {
  __try {
    peek(address);
  } __except (decline(1)) {
  }
}

/* A handler as compilers link it with /GS: it looks at the frame, and then calls the
 * system's. */
IMPORT int __C_specific_handler(ptr, ptr, ptr, ptr);
int checked(ptr record, ptr frame, ptr context, ptr dispatcher) {
  step(1);
  return __C_specific_handler(record, frame, context, dispatcher);
}

IMPORT void _local_unwind(ptr, ptr);
u64 read_checked(ptr address);
u64 leave_block(ptr address);
void left(u8 abnormal, ptr frame) { step(abnormal ? 2 : 0xF); }
/* read_checked: a frame register, saved registers, and the handler above.
 * leave_block: leaves a block with __finally by _local_unwind, from a part of the
 * function whose unwind information is chained. */
__asm__(
    ".text\n"
    ".intel_syntax noprefix\n"
    ".globl read_checked\n"
    ".seh_proc read_checked\n"
    ".seh_handler checked, @except, @unwind\n"
    "read_checked:\n"
    " push rbp\n"
    ".seh_pushreg rbp\n"
    " push rdi\n"
    ".seh_pushreg rdi\n"
    " sub rsp, 0x58\n"
    ".seh_stackalloc 0x58\n"
    " lea rbp, [rsp + 0x20]\n"
    ".seh_setframe rbp, 0x20\n"
    " movaps [rsp + 0x30], xmm6\n"
    ".seh_savexmm xmm6, 0x30\n"
    ".seh_endprologue\n"
    " mov edi, 0x77\n"
    "1:\n"
    " mov rax, [rcx]\n"
    "2:\n"
    " mov eax, 1\n"
    " jmp 4f\n"
    "3:\n"
    " add rax, rdi\n"
    "4:\n"
    " movaps xmm6, [rsp + 0x30]\n"
    " lea rsp, [rbp + 0x38]\n"
    " pop rdi\n"
    " pop rbp\n"
    " ret\n"
    ".seh_handlerdata\n"
    " .long 1\n"
    " .long 1b@IMGREL\n"
    " .long 2b@IMGREL\n"
    " .long 1\n"
    " .long 3b@IMGREL\n"
    ".text\n"
    ".seh_endproc\n"
    ".globl leave_block\n"
    ".seh_proc leave_block\n"
    ".seh_handler checked, @except, @unwind\n"
    "leave_block:\n"
    " push rbx\n"
    ".seh_pushreg rbx\n"
    " sub rsp, 0x30\n"
    ".seh_stackalloc 0x30\n"
    ".seh_endprologue\n"
    " mov rbx, rcx\n"
    "5:\n"
    " mov rcx, rsp\n"
    " lea rdx, [rip + 7f]\n"
    " call [rip + __imp__local_unwind]\n"
    " nop\n"
    "6:\n"
    " int3\n"
    "7:\n"
    " mov rax, rbx\n"
    " add rsp, 0x30\n"
    " pop rbx\n"
    " ret\n"
    ".seh_handlerdata\n"
    " .long 1\n"
    " .long 5b@IMGREL\n"
    " .long 6b@IMGREL\n"
    " .long finally_thunk@IMGREL\n"
    " .long 0\n"
    ".text\n"
    ".seh_endproc\n"
    "finally_thunk:\n"
    " jmp left\n"
    ".att_syntax\n");

static u64 run(u32 number, u64 *words) {
  ptr address = words[0];
  switch (number) {
  case 0: return code_of_read(address);
  case 1: return inline_read(address);
  case 2: return write_information(address);
  case 3: return order(address);
  case 4: return preserved(address);
  case 5: return continued(address);
  case 6: return raise((int)address);
  case 7: return probe(address, words[1], (u32)words[2], (int)words[3]);
  case 8: return nested(address);
  case 9: return in_filter(address);
  case 10: return in_export(address);
  case 11: return string(address);
  case 12: return lock(address, 1);
  case 13: return allocation();
  case 14: return divide((u32)address);
  case 15: steps = 0; return read_checked(address) | steps << 40;
  case 16: steps = 0; return leave_block(address) | steps << 40;
  /* Bugs. */
  case 32: return freed();
  case 33: return raised_irql(address);
  case 34: falls_through(address); return 0;
  case 35: ExRaiseStatus((int)address); return 0;
  case 36: ProbeForRead(address, 8, 1); return 0;
  case 37: return lock(address, 0);
  case 38: _local_unwind(address, 0); return 0;
  }
  return ~0ull;
}

static int dispatch(ptr object, ptr irp) {
  ptr location = *(ptr *)(irp + 184);
  u64 *words = *(u64 **)(irp + 24);
  u64 information = 0;
  if (*(u8 *)location == 14) {
    words[0] = run(*(u32 *)(location + 24) >> 2 & 0xFF, words);
    information = 8;
  }
  *(u64 *)(irp + 48) = 0;
  *(u64 *)(irp + 56) = information;
  IofCompleteRequest(irp, 0);
  return 0;
}

static void unload(ptr driver) { IoDeleteDevice(device); }

int DriverEntry(ptr driver, ptr path) {
  static u16 text[] = u"\\Device\\Seh";
  u64 name[2] = {22 | 22 << 16, (ptr)text};
  int status = IoCreateDevice(driver, 0, (ptr)name, 0x22, 0, 0, &device);
  if (status < 0) return status;
  *(ptr *)(driver + 104) = (ptr)unload;
  for (int major = 0; major < 28; major++) *(ptr *)(driver + 112 + 8 * major) = (ptr)dispatch;
  return 0;
}
