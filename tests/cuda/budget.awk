# SPDX-License-Identifier: Apache-2.0
# Reads what record_compile.sh kept of compiled kernels, first the PTX files (*.ptx), then what ptxas said (*.ptxas), and
# files of lines "dynamic <kernel> <bytes>". Prints for each kernel and architecture
#   architecture threads registers shared dynamic barriers <count of each instruction> kernel
# and "fault <text>" for what must not be there. `instructions` lists prefixes of PTX opcodes.

BEGIN { instruction_count = split(instructions, instruction, " ") }

FILENAME ~ /\.ptx$/ { read_ptx(); next }
$1 == "dynamic" { read_launch(); next }
{ read_ptxas() }

END {
  for (l = 1; l <= line_count; ++l) {
    split(lines[l], key, SUBSEP)
    # kernel_of_this_build only shows that the build has code for a device.
    if (launch_count && !(key[1] in dynamic) && key[1] !~ /kernel_of_this_build/) print "fault " key[2] " " key[1] ": nothing launched it"
    text = key[2] " " threads[lines[l]] + 0 " " registers[lines[l]] + 0 " " shared[lines[l]] + 0 " " \
      (key[1] in dynamic ? dynamic[key[1]] : "?") " " barriers[lines[l]] + 0
    for (i = 1; i <= instruction_count; ++i) text = text " " count[lines[l], i] + 0
    print text " " key[1]
  }
}

function read_launch() {
  ++launch_count
  if (!($2 in dynamic)) dynamic[$2] = $3
  if (dynamic[$2] != $3) dynamic[$2] = "varies"
}

function read_ptx(opcode, i) {
  if ($1 == ".target") {
    architecture = $2
    sub(/,$/, "", architecture)
  } else if (/\.entry /) {
    kernel = $0
    sub(/.*\.entry +/, "", kernel)
    sub(/\(.*/, "", kernel)
  } else if ($1 == ".maxntid") {
    threads[kernel, architecture] = $2 + 0
  } else if (/^}/) {
    kernel = ""
  } else if (kernel != "") {
    opcode = $1 ~ /^@/ ? $2 : $1
    for (i = 1; i <= instruction_count; ++i) {
      if (index(opcode, instruction[i]) == 1) ++count[kernel, architecture, i]
    }
  }
}

# C75xx are the notes that instructions were serialised or ignored.
function read_ptxas(quoted) {
  if (/Compiling entry function/) {
    split($0, quoted, "'")
    kernel = quoted[2]
    architecture = quoted[4]
    lines[++line_count] = kernel SUBSEP architecture
  } else if (/\(C75[0-9][0-9]\)/) {
    print "fault " $0
  } else if (/bytes stack frame/ && ($1 != 0 || $5 != 0 || $9 != 0)) {
    print "fault " architecture " " kernel ": " $1 " bytes stack frame, " $5 " bytes spill stores, " $9 " loads"
  } else if (/: Used [0-9]+ registers/) {
    read_usage()
  }
}

# "ptxas info : Used 168 registers, used 1 barriers, 512 bytes smem, ..."
function read_usage(words, n, i) {
  n = split($0, words, /[ ,]+/)
  for (i = 3; i <= n; ++i) {
    if (words[i] == "registers") registers[kernel, architecture] = words[i - 1]
    if (words[i] == "barriers") barriers[kernel, architecture] = words[i - 1]
    if (words[i] == "smem") shared[kernel, architecture] = words[i - 2]
  }
}
