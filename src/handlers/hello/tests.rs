//! The facts of a system, read from folders that stand in for its root.

use std::fs;

use super::*;

fn kernel() -> Kernel {
    Kernel {
        host: "worker-1".to_owned(),
        release: "6.1.0-18-amd64".to_owned(),
        machine: "x86_64".to_owned(),
    }
}

/// A root folder with these files.
fn root(files: &[(&str, &str)]) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    for (file, content) in files {
        let path = root.path().join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    root
}

#[test]
fn the_facts_of_a_distribution_are_read_from_os_release() {
    let root = root(&[(
        "etc/os-release",
        "NAME=\"Ubuntu\"\nVERSION_ID=\"22.04\"\nID=ubuntu\nID_LIKE='debian'\n",
    )]);
    let info = SystemInfo::read(root.path(), kernel());
    assert_eq!(info.hostname, "worker-1");
    assert_eq!(info.os, "linux");
    assert_eq!(info.platform, "ubuntu");
    assert_eq!(info.platform_family, "debian");
    assert_eq!(info.platform_version, "22.04");
    assert_eq!(info.kernel_version, "6.1.0-18-amd64");
    assert_eq!(info.kernel_arch, "x86_64");
    assert_eq!(info.virtualization_system, "none");
}

#[test]
fn the_second_place_of_os_release_is_read_too() {
    let root = root(&[("usr/lib/os-release", "ID=wolfi\n")]);
    let info = SystemInfo::read(root.path(), kernel());
    assert_eq!(info.platform, "wolfi");
    assert_eq!(info.platform_family, "wolfi");
    assert_eq!(info.platform_version, "6.1.0-18-amd64");
}

#[test]
fn no_field_is_empty_on_a_system_that_says_nothing() {
    let root = root(&[]);
    let info = SystemInfo::read(root.path(), Kernel::default());
    let expected = SystemInfo {
        hostname: "unknown".to_owned(),
        os: "linux".to_owned(),
        platform: "linux".to_owned(),
        platform_version: "unknown".to_owned(),
        platform_family: "linux".to_owned(),
        kernel_version: "unknown".to_owned(),
        kernel_arch: std::env::consts::ARCH.to_owned(),
        virtualization_system: "none".to_owned(),
    };
    assert_eq!(info, expected);
}

#[test]
fn the_innermost_virtualisation_is_named() {
    let kvm = ("sys/class/dmi/id/sys_vendor", "QEMU\n");
    let overlay = |layer: &str| {
        format!(
            "22 1 8:1 / /boot rw - ext4 /dev/sda1 rw\n\
             30 1 0:40 / / rw,relatime - overlay overlay rw,lowerdir={layer}/1/fs\n"
        )
    };
    let containerd =
        overlay("/var/lib/containerd/io.containerd.snapshotter.v1.overlayfs/snapshots");
    let docker = overlay("/var/lib/docker/overlay2");
    let flags = "processor : 0\nflags\t\t: fpu hypervisor sse2\n";
    let bare = "processor : 0\nflags\t\t: fpu sse2\nmodel name : hypervisor\n";
    let cases: &[(&[(&str, &str)], &str)] = &[
        (&[], "none"),
        (&[kvm], "kvm"),
        (&[kvm, (".dockerenv", "")], "docker"),
        (&[kvm, ("run/.containerenv", "")], "podman"),
        (
            &[
                (".dockerenv", ""),
                ("proc/self/cgroup", "0::/kubepods/burstable/pod1\n"),
            ],
            "kubernetes",
        ),
        (
            &[(
                "var/run/secrets/kubernetes.io/serviceaccount/namespace",
                "x",
            )],
            "kubernetes",
        ),
        (&[("proc/self/cgroup", "0::/lxc.payload.one\n")], "lxc"),
        (&[("proc/self/mountinfo", &containerd)], "containerd"),
        (&[("proc/self/mountinfo", &docker)], "docker"),
        (&[("sys/hypervisor/type", "xen\n")], "xen"),
        (
            &[
                ("sys/class/dmi/id/sys_vendor", "Microsoft Corporation\n"),
                ("sys/class/dmi/id/product_name", "Virtual Machine\n"),
            ],
            "hyperv",
        ),
        (&[("sys/class/dmi/id/sys_vendor", "Amazon EC2\n")], "kvm"),
        (
            &[("sys/class/dmi/id/sys_vendor", "VMware, Inc.\n")],
            "vmware",
        ),
        (
            &[
                ("sys/class/dmi/id/sys_vendor", "LENOVO\n"),
                ("proc/cpuinfo", bare),
            ],
            "none",
        ),
        (&[("proc/cpuinfo", flags)], "hypervisor"),
    ];
    for (files, expected) in cases {
        let root = root(files);
        assert_eq!(virtualization(root.path()), *expected, "{files:?}");
    }
}

#[test]
fn long_values_are_cut_to_what_the_server_accepts() {
    let info = SystemInfo::read(
        root(&[]).path(),
        Kernel {
            host: "é".repeat(1000),
            ..kernel()
        },
    );
    assert_eq!(info.to_message().hostname.chars().count(), FIELD_LIMIT);
}

#[test]
fn this_machine_has_facts() {
    let info = SystemInfo::detect();
    assert_ne!(info.kernel_version, UNKNOWN);
    assert_ne!(info.hostname, UNKNOWN);
}
