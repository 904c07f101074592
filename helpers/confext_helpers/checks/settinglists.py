# SPDX-License-Identifier: LGPL-2.1-or-later
"""The lists of all properties of a service, by what a check does with them.

A check must have the whole sandbox of the service, but systemd does not tell which properties belong to it. So each
property of systemd 257 and 262 is in exactly one list: SHAPING_PROPERTIES in service/properties.py has those that shape
`/etc`, this module the others. A test looks for every property that the booted systems have. checks/run.py finds at run
time what a newer systemd has besides, and refuses what it does not know.
"""

from __future__ import annotations

# The settings that a command of the service runs with, besides those that shape /etc: org.freedesktop.systemd1(5),
# explained in systemd.exec(5) and systemd.resource-control(5).
CONTEXT = frozenset((
    "AllowedCPUs", "AllowedMemoryNodes", "AmbientCapabilities", "AppArmorProfile", "BPFDelegateAttachments",
    "BPFDelegateCommands", "BPFDelegateMaps", "BPFDelegatePrograms", "BPFProgram", "BindLogSockets",
    "BindNetworkInterface", "BlockIODeviceWeight", "BlockIOReadBandwidth", "BlockIOWeight", "BlockIOWriteBandwidth",
    "CPUAffinity", "CPUAffinityFromNUMA", "CPUQuotaPerSecUSec", "CPUQuotaPeriodUSec", "CPUSchedulingPolicy",
    "CPUSchedulingPriority", "CPUSchedulingResetOnFork", "CPUShares", "CPUWeight", "CapabilityBoundingSet",
    "CoredumpFilter", "DelegateNamespaces", "DeviceAllow", "DevicePolicy", "DynamicUser", "Environment",
    "EnvironmentFiles", "ExecSearchPath", "Group", "IODeviceLatencyTargetUSec", "IODeviceWeight",
    "IOReadBandwidthMax", "IOReadIOPSMax", "IOSchedulingClass", "IOSchedulingPriority", "IOWeight",
    "IOWriteBandwidthMax", "IOWriteIOPSMax", "IPAddressAllow", "IPAddressDeny", "IPCNamespacePath",
    "IPEgressFilterPath", "IPIngressFilterPath", "IgnoreSIGPIPE", "ImportCredential", "ImportCredentialEx",
    "KeyringMode", "LimitAS", "LimitASSoft", "LimitCORE", "LimitCORESoft", "LimitCPU", "LimitCPUSoft", "LimitDATA",
    "LimitDATASoft", "LimitFSIZE", "LimitFSIZESoft", "LimitLOCKS", "LimitLOCKSSoft", "LimitMEMLOCK",
    "LimitMEMLOCKSoft", "LimitMSGQUEUE", "LimitMSGQUEUESoft", "LimitNICE", "LimitNICESoft", "LimitNOFILE",
    "LimitNOFILESoft", "LimitNPROC", "LimitNPROCSoft", "LimitRSS", "LimitRSSSoft", "LimitRTPRIO", "LimitRTPRIOSoft",
    "LimitRTTIME", "LimitRTTIMESoft", "LimitSIGPENDING", "LimitSIGPENDINGSoft", "LimitSTACK", "LimitSTACKSoft",
    "LoadCredential", "LoadCredentialEncrypted", "LockPersonality", "LogNamespace", "MemoryDenyWriteExecute",
    "MemoryHigh", "MemoryKSM", "MemoryLimit", "MemoryLow", "MemoryMax", "MemoryMin", "MemorySwapMax", "MemoryTHP",
    "MemoryZSwapMax", "MemoryZSwapWriteback", "NFTSet", "NUMAMask", "NUMAPolicy", "NetworkNamespacePath", "Nice",
    "OOMScoreAdjust", "PAMName", "PassEnvironment", "Personality", "PrivateBPF", "PrivateDevices", "PrivateIPC",
    "PrivateNetwork", "PrivatePIDs", "PrivateTmp", "PrivateTmpEx", "PrivateUsers", "PrivateUsersEx", "ProcSubset",
    "ProtectClock", "ProtectControlGroups", "ProtectControlGroupsEx", "ProtectHome", "ProtectHostname",
    "ProtectHostnameEx", "ProtectKernelLogs", "ProtectKernelModules", "ProtectKernelTunables", "ProtectProc",
    "RestrictAddressFamilies", "RestrictFileSystems", "RestrictNamespaces", "RestrictNetworkInterfaces",
    "RestrictRealtime", "RestrictSUIDSGID", "SELinuxContext", "SecureBits", "SetCredential",
    "SetCredentialEncrypted", "SetLoginEnvironment", "Slice", "SmackProcessLabel", "SocketBindAllow",
    "SocketBindDeny", "StartupAllowedCPUs", "StartupAllowedMemoryNodes", "StartupBlockIOWeight", "StartupCPUShares",
    "StartupCPUWeight", "StartupIOWeight", "StartupMemoryHigh", "StartupMemoryLow", "StartupMemoryMax",
    "StartupMemorySwapMax", "StartupMemoryZSwapMax", "SupplementaryGroups", "SystemCallArchitectures",
    "SystemCallErrorNumber", "SystemCallFilter", "SystemCallLog", "TasksMax", "TimerSlackNSec", "UMask",
    "UnsetEnvironment", "User", "UserNamespacePath", "WorkingDirectory",
))  # fmt: skip

# Those of them that are always passed on: if not set, a transient unit may get another value than the service, as the
# default is the manager's, or follows from other settings.
ALWAYS = frozenset((
    "LimitAS", "LimitASSoft", "LimitCORE", "LimitCORESoft", "LimitCPU", "LimitCPUSoft", "LimitDATA",
    "LimitDATASoft", "LimitFSIZE", "LimitFSIZESoft", "LimitLOCKS", "LimitLOCKSSoft", "LimitMEMLOCK",
    "LimitMEMLOCKSoft", "LimitMSGQUEUE", "LimitMSGQUEUESoft", "LimitNICE", "LimitNICESoft", "LimitNOFILE",
    "LimitNOFILESoft", "LimitNPROC", "LimitNPROCSoft", "LimitRSS", "LimitRSSSoft", "LimitRTPRIO", "LimitRTPRIOSoft",
    "LimitRTTIME", "LimitRTTIMESoft", "LimitSIGPENDING", "LimitSIGPENDINGSoft", "LimitSTACK", "LimitSTACKSoft",
    "SetLoginEnvironment", "Slice",
))  # fmt: skip

# The directories that the service keeps on disk and in /run. They are bound into the check: when a unit with such a
# setting ends, systemd empties or removes the directory.
KEPT = {
    "RuntimeDirectory": "/run",
    "StateDirectory": "/var/lib",
    "CacheDirectory": "/var/cache",
    "LogsDirectory": "/var/log",
}
# The same directories with links to them, and whether they are read-only: a(sst).
LINKED = frozenset(f"{name}Symlink" for name in KEPT)

# Settings of every unit, not only of services, that a check gets. PrivateTmp= depends on DefaultDependencies=.
UNIT_CONTEXT = frozenset(("JoinsNamespaceOf", "DefaultDependencies"))

# State, not settings: these change while a service runs.
STATE = frozenset((
    "CPUUsageNSec", "CacheDirectoryQuotaUsage", "CleanResult", "ControlGroup", "ControlGroupId", "ControlPID",
    "EffectiveCPUs", "EffectiveMemoryHigh", "EffectiveMemoryMax", "EffectiveMemoryNodes", "EffectiveTasksMax",
    "ExecMainCode", "ExecMainExitTimestamp", "ExecMainExitTimestampMonotonic", "ExecMainHandoffTimestamp",
    "ExecMainHandoffTimestampMonotonic", "ExecMainPID", "ExecMainStartTimestamp", "ExecMainStartTimestampMonotonic",
    "ExecMainStatus", "GID", "IOReadBytes", "IOReadOperations", "IOWriteBytes", "IOWriteOperations",
    "IPEgressBytes", "IPEgressPackets", "IPIngressBytes", "IPIngressPackets", "LiveMountResult",
    "LogsDirectoryQuotaUsage", "MainPID", "ManagedOOMKills", "MemoryAvailable", "MemoryCurrent", "MemoryPeak",
    "MemorySwapCurrent", "MemorySwapPeak", "MemoryZSwapCurrent", "NFileDescriptorStore", "NRestarts", "OOMKills",
    "ReloadResult", "RestartUSecNext", "Result", "StateDirectoryQuotaUsage", "StatusBusError", "StatusErrno",
    "StatusText", "StatusVarlinkError", "TasksCurrent", "UID", "WatchdogTimestamp", "WatchdogTimestampMonotonic",
))  # fmt: skip

# Settings that a check does not get: how the service is started, watched, ended and logged, and what else happens
# outside of it; what its main process is handed; what it may do with its own control group (a check has none).
# RemoveIPC= would have an effect beyond the check.
OTHER = frozenset((
    "BlockIOAccounting", "BusName", "CPUAccounting", "CPUPressureThresholdUSec", "CPUPressureWatch",
    "CPUSetPartition", "CacheDirectoryAccounting", "CacheDirectoryMode", "CacheDirectoryQuota", "CoredumpReceive",
    "DefaultMemoryLow", "DefaultMemoryMin", "DefaultStartupMemoryLow", "Delegate", "DelegateControllers",
    "DelegateSubgroup", "DisableControllers", "ExecCondition", "ExecConditionEx", "ExecReload", "ExecReloadEx",
    "ExecReloadPost", "ExecReloadPostEx", "ExecStart", "ExecStartEx", "ExecStartPost", "ExecStartPostEx",
    "ExecStartPre", "ExecStartPreEx", "ExecStop", "ExecStopEx", "ExecStopPost", "ExecStopPostEx", "ExitType",
    "ExtraFileDescriptorNames", "FileDescriptorStoreMax", "FileDescriptorStorePreserve", "FinalKillSignal",
    "GuessMainPID", "IOAccounting", "IOPressureThresholdUSec", "IOPressureWatch", "IPAccounting", "KillMode",
    "KillSignal", "LUOSession", "LogExtraFields", "LogFilterPatterns", "LogLevelMax", "LogRateLimitBurst",
    "LogRateLimitIntervalUSec", "LogsDirectoryAccounting", "LogsDirectoryMode", "LogsDirectoryQuota",
    "ManagedOOMMemoryPressure", "ManagedOOMMemoryPressureDurationUSec", "ManagedOOMMemoryPressureLimit",
    "ManagedOOMPreference", "ManagedOOMSwap", "MemoryAccounting", "MemoryPressureThresholdUSec",
    "MemoryPressureWatch", "NonBlocking", "NotifyAccess", "OOMPolicy", "OOMRules", "OpenFile", "PIDFile",
    "PrivateMounts", "RefreshOnReload", "ReloadSignal", "RemainAfterExit", "RemoveIPC", "Restart",
    "RestartForceExitStatus", "RestartKillSignal", "RestartMaxDelayUSec", "RestartMode", "RestartPreventExitStatus",
    "RestartRandomizedDelayUSec", "RestartSteps", "RestartUSec", "RootDirectoryStartOnly", "RootEphemeral",
    "RuntimeDirectoryMode", "RuntimeDirectoryPreserve", "RuntimeMaxUSec", "RuntimeRandomizedExtraUSec",
    "SameProcessGroup", "SendSIGHUP", "SendSIGKILL", "StandardError", "StandardErrorFileDescriptorName",
    "StandardInput", "StandardInputData", "StandardInputFileDescriptorName", "StandardOutput",
    "StandardOutputFileDescriptorName", "StateDirectoryAccounting", "StateDirectoryMode", "StateDirectoryQuota",
    "SuccessExitStatus", "SyslogFacility", "SyslogIdentifier", "SyslogLevel", "SyslogLevelPrefix", "SyslogPriority",
    "TTYColumns", "TTYPath", "TTYReset", "TTYRows", "TTYVHangup", "TTYVTDisallocate", "TasksAccounting",
    "TimeoutAbortUSec", "TimeoutCleanUSec", "TimeoutStartFailureMode", "TimeoutStartUSec", "TimeoutStopFailureMode",
    "TimeoutStopUSec", "Type", "USBFunctionDescriptors", "USBFunctionStrings", "UtmpIdentifier", "UtmpMode",
    "WatchdogSignal", "WatchdogUSec",
))  # fmt: skip

# Properties of every unit that a check does not get.
UNIT_OTHER = frozenset((
    "AccessSELinuxContext", "ActivationDetails", "ActiveEnterTimestamp", "ActiveEnterTimestampMonotonic",
    "ActiveExitTimestamp", "ActiveExitTimestampMonotonic", "ActiveState", "After", "AllowIsolate", "AssertResult",
    "AssertTimestamp", "AssertTimestampMonotonic", "Asserts", "Before", "BindsTo", "BoundBy", "CanClean",
    "CanFreeze", "CanIsolate", "CanLiveMount", "CanReload", "CanStart", "CanStop", "CollectMode", "ConditionResult",
    "ConditionTimestamp", "ConditionTimestampMonotonic", "Conditions", "ConflictedBy", "Conflicts", "ConsistsOf",
    "DebugInvocation", "Description", "Documentation", "DropInPaths", "FailureAction",
    "FailureActionExitStatus", "Following", "FragmentPath", "FreezerState", "Id", "IgnoreOnIsolate",
    "InactiveEnterTimestamp", "InactiveEnterTimestampMonotonic", "InactiveExitTimestamp",
    "InactiveExitTimestampMonotonic", "InvocationID", "Job", "JobRunningTimeoutUSec", "JobTimeoutAction",
    "JobTimeoutRebootArgument", "JobTimeoutUSec", "LoadError", "LoadState", "Markers", "Names", "NeedDaemonReload",
    "OnFailure", "OnFailureJobMode", "OnFailureOf", "OnSuccess", "OnSuccessJobMode", "OnSuccessOf", "PartOf",
    "Perpetual", "PropagatesReloadTo", "PropagatesStopTo", "RebootArgument", "Refs", "RefuseManualStart",
    "RefuseManualStop", "ReloadPropagatedFrom", "RequiredBy", "Requires", "RequiresMountsFor", "Requisite",
    "RequisiteOf", "SliceOf", "SourcePath", "StartLimitAction", "StartLimitBurst", "StartLimitIntervalUSec",
    "StateChangeTimestamp", "StateChangeTimestampMonotonic", "StopPropagatedFrom", "StopWhenUnneeded", "SubState",
    "SuccessAction", "SuccessActionExitStatus", "SurviveFinalKillSignal", "Transient", "TriggeredBy", "Triggers",
    "UnitFilePreset", "UnitFileState", "UpheldBy", "Upholds", "WantedBy", "Wants", "WantsMountsFor",
))  # fmt: skip

SERVICE = CONTEXT | frozenset(KEPT) | LINKED | STATE | OTHER
