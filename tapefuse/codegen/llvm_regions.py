"""Loops, branches and memory of regions as LLVM text.

A kernel that may be stopped, or run out of memory, does so by a jump to its end, where what it has allocated is freed.
Arrays that change their roles are pointers in stack slots, which LLVM promotes to registers.
"""

from __future__ import annotations

from collections.abc import Iterator

from tapefuse.codegen.emit_llvm import Writer
from tapefuse.codegen.loops import (
    ZERO,
    Allocate,
    Buffer,
    Free,
    Grow,
    If,
    Launch,
    Move,
    Num,
    Poll,
    Scalar,
    Stmt,
    View,
    While,
    bodies,
)

WATCHED, INTERRUPTED, LAUNCH = "tapefuse_watched", "tapefuse_interrupted", "tapefuse_launch"
TAKE, GIVE = "tapefuse_take", "tapefuse_give"


class RegionWriter(Writer):
    """Prints what regions have beside other kernels. `moved`: names of buffers whose pointers are in stack slots."""

    moved: frozenset[str]

    def text(self) -> str:
        self.moved = frozenset(_moved(self.kernel.body))
        self.pointers: dict[str, str] = {}
        self.allocated: list[str] = []  # stack slots of what is to be freed
        self.leaves = False  # whether something jumps to the end
        self.watch = ""
        self.status = next(_polls(self.kernel.body), None)
        text = super().text()
        if not self.leaves:
            return text
        body, end = text[: text.rindex("  ret void")], text[text.rindex("  ret void") :]
        return "\n".join([body + "  br label %leave", "leave:", *self._freed(), end])

    def _freed(self) -> list[str]:
        """Free what is allocated still; a slot that is empty holds null."""
        lines = []
        for slot in self.allocated:
            lines += [f"  {slot}.last = load ptr, ptr {slot}", f"  call void @{GIVE}(ptr {slot}.last)"]
        return lines

    def pointer(self, buffer: Buffer) -> str:
        if buffer.name in self.moved:
            return self.new(f"load ptr, ptr %{buffer.name}.now")
        return self.pointers.get(buffer.name, f"%{buffer.name}")

    def control(self, s: Stmt) -> None:
        match s:
            case View(buffer, source, at):
                start = self.pointer(source)
                if at != ZERO:
                    start = self.new(f"getelementptr i8, ptr {start}, i64 {self.use(at)}")
                self.view(buffer, start)
            case Move(targets, sources):
                found = [self.pointer(b) for b in sources]
                for target, value in zip(targets, found, strict=True):
                    self.line(f"store ptr {value}, ptr %{target.name}.now")
            case While():
                self.repeat(s)
            case If():
                self.branch(s)
            case Launch():
                self.launch(s)
            case Allocate():
                self.allocate(s)
            case Grow():
                self.grow(s)
            case Free(buffer):
                slot = f"%{buffer.name}.memory"
                self.give(self.new(f"load ptr, ptr {slot}"))
                self.line(f"store ptr null, ptr {slot}")
            case Poll(status):
                self.poll(status)

    def view(self, buffer: Buffer, pointer: str) -> None:
        if buffer.name not in self.moved:
            self.pointers[buffer.name] = pointer
            return
        slot = f"  %{buffer.name}.now = alloca ptr"
        if slot not in self.slots:
            self.slots.append(slot)
        self.line(f"store ptr {pointer}, ptr %{buffer.name}.now")

    # -- control ---------------------------------------------------------------------------------------
    def repeat(self, s: While) -> None:
        self.count += 1
        n = self.count
        self.line(f"br label %test.{n}")
        self.start(f"test.{n}")
        self.statements(s.before)
        self.line(f"br i1 {self.use(s.condition)}, label %again.{n}, label %done.{n}")
        self.start(f"again.{n}")
        self.statements(s.body)
        self.line(f"br label %test.{n}")
        self.start(f"done.{n}")

    def branch(self, s: If) -> None:
        self.count += 1
        n = self.count
        other = f"else.{n}" if s.otherwise else f"end.if.{n}"
        self.line(f"br i1 {self.use(s.condition)}, label %then.{n}, label %{other}")
        self.start(f"then.{n}")
        self.statements(s.then)
        self.line(f"br label %end.if.{n}")
        if s.otherwise:
            self.start(other)
            self.statements(s.otherwise)
            self.line(f"br label %end.if.{n}")
        self.start(f"end.if.{n}")

    def leave_if(self, condition: str) -> None:
        self.leaves = True
        self.count += 1
        self.line(f"br i1 {condition}, label %leave, label %stay.{self.count}")
        self.start(f"stay.{self.count}")

    def poll(self, status: Buffer) -> None:
        """Whether this thread may ask is known when the kernel begins; others see whether one that may has stopped."""
        interrupted = self.needs.external(INTERRUPTED, "i64")
        self.look()
        self.count += 1
        n = self.count
        self.line(f"br i1 %may.ask, label %ask.{n}, label %see.{n}")
        self.start(f"ask.{n}")
        answer = self.new(f"call i64 {interrupted}()")
        self.stop_if(answer, status)
        self.line(f"br label %on.{n}")
        self.start(f"see.{n}")
        self.stop_if("0", status)
        self.line(f"br label %on.{n}")
        self.start(f"on.{n}")

    def look(self) -> None:
        """Find out whether this thread may ask."""
        if not self.watch:
            self.watch = "%may.ask"
            watched = self.needs.external(WATCHED, "i64")
            self.slots += [f"  %asks = call i64 {watched}()", "  %may.ask = icmp ne i64 %asks, 0"]

    def stop_if(self, answer: str, status: Buffer) -> None:
        """Leave if this thread was told to stop, or another one that runs a piece of the same kernel."""
        seen = self.new(f"load atomic i8, ptr {self.pointer(status)} monotonic, align 1")
        told = self.new(f"icmp ne i64 {answer}, 0")
        stop = self.new(f"or i1 {told}, {self.new(f'icmp ne i8 {seen}, 0')}")
        self.line(f"{stop}.byte = zext i1 {stop} to i8")
        self.line(f"store atomic i8 {stop}.byte, ptr {self.pointer(status)} monotonic, align 1")
        self.leave_if(stop)

    # -- memory ----------------------------------------------------------------------------------------
    def allocate(self, s: Allocate) -> None:
        slot = f"%{s.buffer.name}.memory"
        self.slots += [f"  {slot} = alloca ptr", f"  store ptr null, ptr {slot}"]
        self.allocated.append(slot)
        memory = self.taken(s.nbytes, s.status)
        self.line(f"store ptr {memory}, ptr {slot}")
        self.view(s.buffer, memory)

    def grow(self, s: Grow) -> None:
        memcpy = self.needs.intrinsic("llvm.memcpy.p0.p0.i64", "void", "ptr", "ptr", "i64", "i1")
        memory, old = self.taken(s.nbytes, s.status), self.pointer(s.buffer)
        self.line(f"call void {memcpy}(ptr {memory}, ptr {old}, i64 {self.use(s.used)}, i1 false)")
        self.give(old)
        self.line(f"store ptr {memory}, ptr %{s.buffer.name}.memory")
        self.view(s.buffer, memory)

    def taken(self, nbytes: Scalar, status: Buffer) -> str:
        """New memory; without, the kernel ends."""
        take = self.needs.external(TAKE, "ptr", "i64")
        self.needs.external(GIVE, "void", "ptr")
        memory = self.new(f"call ptr {take}(i64 {self.use(nbytes)})")
        self.leave_without(memory, status)
        return memory

    def give(self, memory: str) -> None:
        self.line(f"call void {self.needs.external(GIVE, 'void', 'ptr')}(ptr {memory})")

    def leave_without(self, memory: str, status: Buffer) -> None:
        """Leave if there was no memory."""
        none = self.new(f"icmp eq ptr {memory}, null")
        at = self.new(f"getelementptr i8, ptr {self.pointer(status)}, i64 1")
        self.line(f"{none}.byte = zext i1 {none} to i8")
        self.line(f"store i8 {none}.byte, ptr {at}")
        self.leave_if(none)

    # -- kernels ---------------------------------------------------------------------------------------
    def launch(self, s: Launch) -> None:
        kernel = self.needs.function(s.kernel)
        operands = [("ptr", self.pointer(b)) for b in s.buffers] + [("i64", self.use(x)) for x in s.sizes]
        self.count += 1
        table = f"%arguments.{self.count}"
        self.slots.append(f"  {table} = alloca [{max(len(operands), 1)} x i64]")
        for k, (type, value) in enumerate(operands):
            at = self.new(f"getelementptr i64, ptr {table}, i64 {k}")
            self.line(f"store {type} {value}, ptr {at}")
        numbers, rows = self.needs.numbers(len(operands)), self.use(s.rows)
        if isinstance(s.pieces, Num) and s.pieces.value == 1:
            bounds = f"i64 {self.use(s.first)}, i64 {rows}"
            self.line(f"call void @{kernel}(ptr {table}, ptr {numbers}, {bounds}, i64 0)")
            return
        types = ["ptr", "ptr", "ptr", "i64", "i64", "i64", "ptr", "ptr"]
        launch = self.needs.external(LAUNCH, "i64", *types)
        self.needs.parallel = True
        if self.status is not None:
            self.look()
        asks = "0" if self.status is None else "%asks"
        pool = "@numba_parallel_for", "@tapefuse_threads"
        values = [f"@{kernel}", table, numbers, rows, self.use(s.pieces), asks, *pool]
        pairs = ", ".join(f"{type} {value}" for type, value in zip(types, values, strict=True))
        stopped = self.new(f"call i64 {launch}({pairs})")
        if self.status is not None:
            self.stop_if(stopped, self.status)


def _polls(body: tuple[Stmt, ...]) -> Iterator[Buffer]:
    """Where it is written that a kernel was told to stop."""
    for s in body:
        if isinstance(s, Poll):
            yield s.status
        for inner in bodies(s):
            yield from _polls(inner)


def _moved(body: tuple[Stmt, ...]) -> set[str]:
    found: set[str] = set()
    for s in body:
        if isinstance(s, Move):
            found.update(b.name for b in (*s.targets, *s.sources))
        if isinstance(s, Grow):
            found.add(s.buffer.name)
        for inner in bodies(s):
            found |= _moved(inner)
    return found
