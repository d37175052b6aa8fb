/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * version: of the daemon and its programs.
 */
#ifndef VMMD_VERSION_H
#define VMMD_VERSION_H

#define VMMD_VERSION "0.1.0"

#endif
