# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""
Setuptools commands that turn a folder of .msg files into a wheel of ROS 2 interfaces.

The generators, templates and headers are those of the ROS wheels in the running environment
(`sys.prefix`). What `rosidl_generate_interfaces()` does in CMake is done here without CMake: .msg -> .idl
-> type description and hash -> C structs, Fast DDS and introspection type support, Python classes and
their converters, all linked into the one extension module that the generated Python classes import.

Two type supports are needed: rmw_fastrtps_cpp serialises with `rosidl_typesupport_fastrtps_c` and asks
`rosidl_typesupport_introspection_c` when it registers the type.
"""
import json
import pathlib
import shutil
import string
import sys

from setuptools import Command
from setuptools.command.build import build
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py
from setuptools.errors import SetupError

PACKAGE = 'vision_msgs'
DEPENDENCIES = ('builtin_interfaces', 'std_msgs', 'geometry_msgs')
GENERATOR_C = 'rosidl_generator_c'
GENERATOR_PY = 'rosidl_generator_py'
TYPE_DESCRIPTION = 'rosidl_generator_type_description'
FASTRTPS_C = 'rosidl_typesupport_fastrtps_c'
INTROSPECTION_C = 'rosidl_typesupport_introspection_c'

ROOT = pathlib.Path(__file__).resolve().parent
PREFIX = pathlib.Path(sys.prefix)
SHARE = PREFIX / 'share'

# rosidl_typesupport_c finds a message's type support with dlopen('lib<package>__<typesupport>.so'). Here all
# of them are in this one module, so a handle only has to choose between two functions.
DISPATCH_HEAD = """\
#include <string.h>
#include "rosidl_runtime_c/message_type_support_struct.h"

typedef const rosidl_message_type_support_t * (* get_handle_t)(void);
typedef struct { get_handle_t fastrtps, introspection; } type_supports_t;

static const rosidl_message_type_support_t * dispatch(
  const rosidl_message_type_support_t * handle, const char * identifier)
{
  const type_supports_t * supports = (const type_supports_t *)handle->data;
  if (strcmp(identifier, handle->typesupport_identifier) == 0) {return handle;}
  if (strcmp(identifier, "rosidl_typesupport_fastrtps_c") == 0) {return supports->fastrtps();}
  if (strcmp(identifier, "rosidl_typesupport_introspection_c") == 0) {return supports->introspection();}
  return NULL;
}
"""
DISPATCH_MESSAGE = string.Template("""
const rosidl_message_type_support_t *
rosidl_typesupport_fastrtps_c__get_message_type_support_handle__${name}(void);
const rosidl_message_type_support_t *
rosidl_typesupport_introspection_c__get_message_type_support_handle__${name}(void);
const rosidl_type_hash_t *
${name}__get_type_hash(const rosidl_message_type_support_t *);
const rosidl_runtime_c__type_description__TypeDescription *
${name}__get_type_description(const rosidl_message_type_support_t *);
const rosidl_runtime_c__type_description__TypeSource__Sequence *
${name}__get_type_description_sources(const rosidl_message_type_support_t *);

const rosidl_message_type_support_t *
rosidl_typesupport_c__get_message_type_support_handle__${name}(void)
{
  static const type_supports_t supports = {
    rosidl_typesupport_fastrtps_c__get_message_type_support_handle__${name},
    rosidl_typesupport_introspection_c__get_message_type_support_handle__${name}
  };
  static const rosidl_message_type_support_t handle = {
    "rosidl_typesupport_c", &supports, dispatch,
    ${name}__get_type_hash, ${name}__get_type_description, ${name}__get_type_description_sources
  };
  return &handle;
}
""")


class BuildInterfaces(Command):
    """Generate every source from msg/*.msg into the build folder, and tell the other commands about them."""

    description = 'generate the sources of the ROS interfaces'
    user_options = []

    def initialize_options(self):
        self.build_temp = None

    def finalize_options(self):
        # The name of build_temp holds platform and Python version, so builds for several Pythons do not mix.
        self.set_undefined_options('build', ('build_temp', 'build_temp'))
        self.generated = pathlib.Path(self.build_temp).resolve() / 'interfaces'
        self.messages = sorted((ROOT / 'msg').glob('*.msg'))

    def run(self):
        _require_environment()
        # Starting afresh: a removed .msg must not live on.
        shutil.rmtree(self.generated, ignore_errors=True)
        idl = self._write_idl()
        descriptions = self._generate(idl)
        self._write_dispatch()
        self._complete_extension()
        self._add_data_files([*sorted(idl.glob('msg/*.idl')), *descriptions])

    def _write_idl(self) -> pathlib.Path:
        from rosidl_adapter.msg import convert_msg_to_idl
        folder = self.generated / 'idl'
        (folder / 'msg').mkdir(parents=True)
        for message in self.messages:
            convert_msg_to_idl(ROOT, PACKAGE, message.relative_to(ROOT), folder / 'msg')
        return folder

    def _generate(self, idl):
        """Run the generators; return the type description files (JSON, with the RIHS01 hashes)."""
        from rosidl_generator_c import generate_c
        from rosidl_generator_py.generate_py_impl import generate_py
        from rosidl_generator_type_description import generate_type_hash
        from rosidl_typesupport_fastrtps_c import generate_typesupport_fastrtps_c
        from rosidl_typesupport_introspection_c import generate_c as generate_introspection_c

        descriptions = self.generated / TYPE_DESCRIPTION / PACKAGE / 'msg'
        common = {
            'package_name': PACKAGE,
            'idl_tuples': [f'{idl}:msg/{message.stem}.idl' for message in self.messages],
            'ros_interface_files': [str(message) for message in self.messages],
            'ros_interface_dependencies': [
                f'{package}:{path}' for package in DEPENDENCIES
                for path in sorted((SHARE / package / 'msg').glob('*.idl'))],
            'include_paths': [f'{package}:{SHARE / package}' for package in DEPENDENCIES],
            'type_description_tuples': [
                f'msg/{message.stem}.idl:{descriptions / message.stem}.json' for message in self.messages],
            'target_dependencies': [],
        }
        for generator, generate in (
            (TYPE_DESCRIPTION, generate_type_hash),  # first: the others embed its result
            (GENERATOR_C, generate_c),
            (INTROSPECTION_C, generate_introspection_c),
            (FASTRTPS_C, generate_typesupport_fastrtps_c),
            (GENERATOR_PY, lambda arguments: generate_py(arguments, ['rosidl_typesupport_c'])),
        ):
            output = self.generated / generator / PACKAGE
            (output / 'msg').mkdir(parents=True)
            resource = SHARE / generator / 'resource'
            arguments = self.generated / f'{generator}__arguments.json'
            arguments.write_text(json.dumps(
                {**common, 'output_dir': str(output), 'template_dir': str(resource)}))
            header = f'{generator}__visibility_control.h'
            if (resource / f'{header}.in').exists():
                text = (resource / f'{header}.in').read_text()
                text = text.replace('@PROJECT_NAME@', PACKAGE)
                text = text.replace('@PROJECT_NAME_UPPER@', PACKAGE.upper())
                (output / 'msg' / header).write_text(text)
            generate(str(arguments))
        return sorted(descriptions.glob('*.json'))

    def _write_dispatch(self):
        parts = [DISPATCH_MESSAGE.substitute(name=f'{PACKAGE}__msg__{message.stem}')
                 for message in self.messages]
        (self.generated / 'dispatch.c').write_text(DISPATCH_HEAD + ''.join(parts))

    def _complete_extension(self):
        import numpy
        # Few translation units instead of about 85: most of a unit's time goes into the same headers. The
        # descriptions define file-local names that clash, so each stays a unit of its own (they are small).
        converters = [path for generator in (GENERATOR_C, INTROSPECTION_C, GENERATOR_PY)
                      for path in self.generated.glob(f'{generator}/**/*.c')
                      if not path.name.endswith('__description.c')]
        extension, = self.distribution.ext_modules
        extension.sources = [
            str(self.generated / 'dispatch.c'),
            self._unity('unity_c.c', converters),
            self._unity('unity_fastrtps.cpp', self.generated.glob(f'{FASTRTPS_C}/**/*.cpp')),
            *sorted(map(str, self.generated.glob(f'{GENERATOR_C}/**/*__description.c'))),
        ]
        extension.language = 'c++'
        extension.include_dirs = [
            *(str(self.generated / generator) for generator in (GENERATOR_C, FASTRTPS_C, INTROSPECTION_C)),
            *sorted(str(path) for path in (PREFIX / 'include').iterdir()
                    if path.is_dir() and not path.name.startswith('python')),
            numpy.get_include(),
        ]
        extension.library_dirs = [str(PREFIX / 'lib')]
        extension.libraries = [
            'rosidl_runtime_c', FASTRTPS_C, 'rosidl_typesupport_fastrtps_cpp', INTROSPECTION_C,
            'fastcdr', 'rcutils',
            *(f'{package}__{part}' for package in DEPENDENCIES
              for part in (GENERATOR_C, FASTRTPS_C, INTROSPECTION_C, GENERATOR_PY)),
        ]
        extension.extra_compile_args = ['-O1', '-g0']
        # From lib/pythonX.Y/site-packages/vision_msgs to lib, where the ROS wheels keep their libraries.
        extension.extra_link_args = ['-Wl,-rpath,$ORIGIN/../../..']

    def _unity(self, name, paths) -> str:
        unity = self.generated / name
        unity.write_text(''.join(f'#include "{path}"\n' for path in sorted(paths)))
        return str(unity)

    def _add_data_files(self, generated):
        """Add what ament_index, `ros2 interface` and bag recorders read under share/."""
        index = self.generated / 'resource_index'
        names = sorted(f'msg/{path.stem}{suffix}'
                       for path in self.messages for suffix in ('.idl', '.json', '.msg'))
        data_files = [(f'share/{PACKAGE}', [str(ROOT / 'package.xml')]),
                      (f'share/{PACKAGE}/msg', [*map(str, self.messages), *map(str, generated)])]
        for kind, content in (('packages', ''), ('rosidl_interfaces', '\n'.join(names))):
            (index / kind).mkdir(parents=True)
            marker = index / kind / PACKAGE
            marker.write_text(content)
            data_files.append((f'share/ament_index/resource_index/{kind}', [str(marker)]))
        self.distribution.data_files = data_files


class BuildWithInterfaces(build):
    """`build`, with the interfaces generated before anything else."""

    sub_commands = [('build_interfaces', None), *build.sub_commands]


class BuildPython(build_py):
    """Copy the generated Python classes; there are no written ones."""

    def get_source_files(self):
        return []

    def run(self):
        self.run_command('build_interfaces')
        source = self.get_finalized_command('build_interfaces').generated / GENERATOR_PY / PACKAGE / 'msg'
        target = pathlib.Path(self.build_lib) / PACKAGE
        self.mkpath(str(target / 'msg'))
        (target / '__init__.py').write_text('')
        for path in sorted(source.glob('*.py')):
            self.copy_file(str(path), str(target / 'msg' / path.name), preserve_mode=False)

    def get_outputs(self, include_bytecode=True):
        return [str(path) for path in sorted((pathlib.Path(self.build_lib) / PACKAGE).rglob('*.py'))]


class BuildExtension(build_ext):
    """Compile the generated sources."""

    def get_source_files(self):
        return []

    def run(self):
        self.run_command('build_interfaces')
        super().run()


def _require_environment():
    needed = (*DEPENDENCIES, GENERATOR_C, GENERATOR_PY, TYPE_DESCRIPTION, FASTRTPS_C, INTROSPECTION_C)
    missing = [name for name in needed if not (SHARE / name).is_dir()]
    if missing:
        raise SetupError(
            f'{PACKAGE}: the ROS wheels of {", ".join(missing)} are not installed in {PREFIX}; install the '
            'requirements there first, then build with its python and --no-build-isolation')
