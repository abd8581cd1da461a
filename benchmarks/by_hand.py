"""Adjoints of loop programs written by hand for Numba: the yardstick, and where NumPy has no fast form, the reference.

Each takes float64 arrays and returns the value and the gradients. A kernel that pays in parallel on large arrays is
compiled both ways, `serial(kernel)` and `parallel(kernel)`; in a serial one `prange` is `range`.
"""

from __future__ import annotations

import functools

import numba as nb
import numpy as np

serial = functools.cache(nb.njit(fastmath=True, cache=True))
parallel = functools.cache(nb.njit(fastmath=True, parallel=True))


def jacobi2d(x, half_steps):
    """Linear, so nothing is kept. The adjoint of the interior goes through the same step with zeros on the boundary;
    what it would give to the boundary is summed apart."""
    n = x.shape[0]
    a, b = x.copy(), x.copy()
    for _ in range(half_steps):
        for i in nb.prange(1, n - 1):
            for j in range(1, n - 1):
                b[i, j] = 0.2 * (a[i, j] + a[i, j - 1] + a[i, j + 1] + a[i + 1, j] + a[i - 1, j])
        a, b = b, a
    value = np.sum(a * a)
    out = 2 * a
    g, h = np.zeros_like(a), np.zeros_like(a)
    g[1:-1, 1:-1] = out[1:-1, 1:-1]
    for _ in range(half_steps):
        for k in range(1, n - 1):
            out[0, k] += 0.2 * g[1, k]
            out[n - 1, k] += 0.2 * g[n - 2, k]
            out[k, 0] += 0.2 * g[k, 1]
            out[k, n - 1] += 0.2 * g[k, n - 2]
        for i in nb.prange(1, n - 1):
            for j in range(1, n - 1):
                h[i, j] = 0.2 * (g[i, j] + g[i, j - 1] + g[i, j + 1] + g[i + 1, j] + g[i - 1, j])
        g, h = h, g
    out[1:-1, 1:-1] = g[1:-1, 1:-1]
    return value, out


def heat_3d(x, half_steps):
    """As for jacobi2d."""
    n = x.shape[0]
    a, b = x.copy(), x.copy()
    for _ in range(half_steps):
        for i in nb.prange(1, n - 1):
            for j in range(1, n - 1):
                for k in range(1, n - 1):
                    b[i, j, k] = 0.25 * a[i, j, k] + 0.125 * (
                        a[i - 1, j, k]
                        + a[i + 1, j, k]
                        + a[i, j - 1, k]
                        + a[i, j + 1, k]
                        + a[i, j, k - 1]
                        + a[i, j, k + 1]
                    )
        a, b = b, a
    value = np.sum(a * a)
    out = 2 * a
    g, h = np.zeros_like(a), np.zeros_like(a)
    g[1:-1, 1:-1, 1:-1] = out[1:-1, 1:-1, 1:-1]
    for _ in range(half_steps):
        for i in range(1, n - 1):
            for j in range(1, n - 1):
                out[0, i, j] += 0.125 * g[1, i, j]
                out[n - 1, i, j] += 0.125 * g[n - 2, i, j]
                out[i, 0, j] += 0.125 * g[i, 1, j]
                out[i, n - 1, j] += 0.125 * g[i, n - 2, j]
                out[i, j, 0] += 0.125 * g[i, j, 1]
                out[i, j, n - 1] += 0.125 * g[i, j, n - 2]
        for i in nb.prange(1, n - 1):
            for j in range(1, n - 1):
                for k in range(1, n - 1):
                    h[i, j, k] = 0.25 * g[i, j, k] + 0.125 * (
                        g[i - 1, j, k]
                        + g[i + 1, j, k]
                        + g[i, j - 1, k]
                        + g[i, j + 1, k]
                        + g[i, j, k - 1]
                        + g[i, j, k + 1]
                    )
        g, h = h, g
    out[1:-1, 1:-1, 1:-1] = g[1:-1, 1:-1, 1:-1]
    return value, out


def advection(u0, c, steps):
    """Keeps the states, which the gradient by the coefficients reads."""
    n = len(u0)
    u = np.empty((steps + 1, n))
    u[0] = u0
    for t in range(steps):
        u[t + 1, 0] = u[t, 0]
        for i in range(1, n):
            u[t + 1, i] = u[t, i] - c[i] * (u[t, i] - u[t, i - 1])
    g, by_c = 2 * u[steps], np.zeros(n)
    value = np.sum(u[steps] ** 2)
    for t in range(steps - 1, -1, -1):
        for i in range(1, n):
            by_c[i] -= g[i] * (u[t, i] - u[t, i - 1])
        g[0] += c[1] * g[1]
        for i in range(1, n - 1):
            g[i] = (1 - c[i]) * g[i] + c[i + 1] * g[i + 1]
        g[n - 1] *= 1 - c[n - 1]
    return value, g, by_c


def seidel2d(x, steps):
    """Linear, in place; the adjoint sweeps backwards, in place."""
    n = x.shape[0]
    a = x.copy()
    for _ in range(steps):
        for i in range(1, n - 1):
            before = a[i, 0]
            for j in range(1, n - 1):
                above = a[i - 1, j - 1] + a[i - 1, j] + a[i - 1, j + 1]
                below = a[i + 1, j - 1] + a[i + 1, j] + a[i + 1, j + 1]
                before = (above + below + a[i, j] + a[i, j + 1] + before) / 9
                a[i, j] = before
    value = np.sum(a * a)
    g = 2 * a
    share = np.zeros(n + 2)  # of row i, between zeros: share[j + 1] is what (i, j) gives to each it was the mean of
    for _ in range(steps):
        for i in range(n - 2, 0, -1):
            carry = 0.0
            for j in range(n - 2, 0, -1):
                carry = (g[i, j] + carry) / 9
                share[j + 1] = carry
            g[i, 0] += share[2]
            g[i, n - 1] += share[n - 1]
            for j in range(1, n - 1):
                g[i, j] = share[j] + share[j + 1]
            for j in range(n):
                total = share[j] + share[j + 1] + share[j + 2]
                g[i - 1, j] += total
                g[i + 1, j] += total
    return value, g


def nbody(m, pos, vel, steps, dt, softening):
    """Kick, drift, kick. Keeps the positions; forces are computed again on the way back."""
    n = len(m)
    kept = np.empty((steps + 1, 3, n))
    kept[0] = pos.T
    v, acc = vel.T.copy(), np.zeros((3, n))
    for t in range(steps + 1):
        if t > 0:
            v += 0.5 * dt * acc
            kept[t] = kept[t - 1] + dt * v
        x, y, z = kept[t]
        for i in range(n):
            ax = ay = az = 0.0
            for j in range(n):
                dx, dy, dz = x[j] - x[i], y[j] - y[i], z[j] - z[i]
                s = 1 / (dx * dx + dy * dy + dz * dz + softening**2)
                w = m[j] * s * np.sqrt(s)
                ax += w * dx
                ay += w * dy
                az += w * dz
            acc[0, i], acc[1, i], acc[2, i] = ax, ay, az
        if t > 0:
            v += 0.5 * dt * acc
    value = np.sum(kept[steps] ** 2) + np.sum(v * v)
    by_m, by_pos, by_vel = np.zeros(n), 2 * kept[steps], 2 * v
    by_acc = 0.5 * dt * by_vel
    for t in range(steps, -1, -1):
        x, y, z = kept[t]
        gx, gy, gz = by_acc
        for i in range(n):
            px = py = pz = mass = 0.0
            for j in range(n):
                dx, dy, dz = x[j] - x[i], y[j] - y[i], z[j] - z[i]
                qx, qy, qz = m[i] * gx[j] - m[j] * gx[i], m[i] * gy[j] - m[j] * gy[i], m[i] * gz[j] - m[j] * gz[i]
                s = 1 / (dx * dx + dy * dy + dz * dz + softening**2)
                w = s * np.sqrt(s)
                along = 3 * s * (qx * dx + qy * dy + qz * dz)
                px += w * (qx - along * dx)
                py += w * (qy - along * dy)
                pz += w * (qz - along * dz)
                mass -= w * (gx[j] * dx + gy[j] * dy + gz[j] * dz)
            by_pos[0, i] += px
            by_pos[1, i] += py
            by_pos[2, i] += pz
            by_m[i] += mass
        if t > 0:
            by_vel += dt * by_pos
            by_acc = 0.5 * dt * by_vel
            if t > 1:
                by_acc = by_acc + 0.5 * dt * by_vel
    return value, by_m, by_pos.T.copy(), by_vel.T.copy()


def cholesky(a):
    """Row by row; the sum of the cubes of the factor. Reads the lower triangle."""
    n = len(a)
    l = np.zeros((n, n))
    for i in range(n):
        for j in range(i):
            l[i, j] = (a[i, j] - np.sum(l[i, :j] * l[j, :j])) / l[j, j]
        l[i, i] = np.sqrt(a[i, i] - np.sum(l[i, :i] ** 2))
    g = 3 * l * l
    for i in range(n - 1, -1, -1):
        g[i, i] /= 2 * l[i, i]
        g[i, :i] -= 2 * g[i, i] * l[i, :i]
        for j in range(i - 1, -1, -1):
            g[i, j] /= l[j, j]
            share = g[i, j]
            g[j, j] -= share * l[i, j]
            for k in range(j):
                g[i, k] -= share * l[j, k]
                g[j, k] -= share * l[i, k]
    return np.sum(l**3), g


def lu(a):
    """Row by row, without pivots; the sum of the squares of both factors."""
    n = len(a)
    u = a.copy()
    for i in range(n):
        for k in range(i):
            u[i, k] /= u[k, k]
            factor = u[i, k]
            for j in range(k + 1, n):
                u[i, j] -= factor * u[k, j]
    g = 2 * u
    for i in range(n - 1, -1, -1):
        for k in range(i - 1, -1, -1):
            factor, by_factor = u[i, k], g[i, k]
            for j in range(k + 1, n):
                by_factor -= g[i, j] * u[k, j]
                g[k, j] -= factor * g[i, j]
            g[i, k] = by_factor / u[k, k]
            g[k, k] -= g[i, k] * factor
    return np.sum(u * u), g


def trisolv(l, b):
    """Forward substitution; the sum of the squares of the solution."""
    n = len(b)
    x = np.empty(n)
    for i in range(n):
        total = b[i]
        for j in range(i):
            total -= l[i, j] * x[j]
        x[i] = total / l[i, i]
    g, by_l, by_b = 2 * x, np.zeros((n, n)), np.empty(n)
    for i in range(n - 1, -1, -1):
        by_b[i] = g[i] / l[i, i]
        for j in range(i):
            g[j] -= by_b[i] * l[i, j]
            by_l[i, j] = -by_b[i] * x[j]
        by_l[i, i] = -by_b[i] * x[i]
    return np.sum(x * x), by_l, by_b
